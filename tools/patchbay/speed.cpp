#include "tools/patchbay/speed.hpp"

#include <algorithm>

#include "core/engine/device.hpp"

namespace patchbay {
namespace {

using Clock = std::chrono::steady_clock;

// Experts that a layer's last decisions name.
int64_t n_distinct(const Model::PlanView& plan) {
  std::set<int32_t> ids;
  for (const int32_t id : plan.ids) {
    if (id >= 0 && id < plan.n_experts) ids.insert(id);
  }
  return std::ssize(ids);
}

// What the last step read, of `batch` sequences that have `context` tokens each.
double bytes_of_step(Model& model, int64_t batch, int64_t context) {
  uint64_t sum = model.bytes().head;
  int64_t moe_layer = 0;
  for (size_t l = 0; l < model.layers().size(); ++l) {
    const LayerBytes& bytes = model.bytes().layers[l];
    const int64_t seen = bytes.reach > 0 ? std::min(bytes.reach, context) : context;
    const int64_t experts = model.layers()[l].dense ? 0 : n_distinct(model.plan(moe_layer++));
    sum += bytes.always + bytes.expert * static_cast<uint64_t>(experts) + bytes.cached_token * static_cast<uint64_t>(batch * seen);
  }
  return static_cast<double>(sum);
}

bool in_host_memory(Model& model) {
  const auto devices = model.devices();
  return std::all_of(devices.begin(), devices.end(), [](const Device* d) { return d->host_visible(); });
}

// A short request that does not count: what is touched for the first time, pages of mapped weights and of the workspace, belongs to the start.
moe::Status warm_up(Session& session, const SpeedOptions& options) {
  Counter counter;
  Request request;
  request.prompt = some_ids(std::min<int64_t>(options.n_prompt, 512), session.engine->n_vocab(), 0);
  request.max_tokens = std::min<int64_t>(options.n_decode, 1) + 1;
  request.sampling.push_back({"temperature", 0.0});
  const auto id = session.engine->submit(std::move(request), &counter);
  if (!id.ok()) return id.error();
  while (counter.n_ended == 0 && session.engine->step()) {
  }
  if (!counter.problem.empty()) return moe::internal(counter.problem);
  return {};
}

}  // namespace

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

// Some ids that differ, within the vocabulary.
std::vector<int32_t> some_ids(int64_t n, int64_t n_vocab, int64_t salt) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + salt * 104729 + 13) % n_vocab));
  return ids;
}

moe::Result<SpeedMeasurement> measure_speed(Session& session, const SpeedOptions& options, int64_t batch) {
  SpeedMeasurement out;
  out.batch = batch;
  const bool counts = in_host_memory(*session.model);
  std::vector<double> prefill, decode, steps, bytes;
  MOE_TRY(warm_up(session, options));
  for (int64_t round = 0; round < options.rounds; ++round) {
    Counter counter;
    for (int64_t b = 0; b < batch; ++b) {
      Request request;
      request.prompt = some_ids(options.n_prompt, session.engine->n_vocab(), round * batch + b + 1);
      request.max_tokens = options.n_decode + 1;
      request.sampling.push_back({"temperature", 0.0});
      const auto id = session.engine->submit(std::move(request), &counter);
      if (!id.ok()) return id.error();
    }
    const auto start = Clock::now();
    const auto all_begun = [&] { return static_cast<int64_t>(counter.begun.size()) == batch; };
    while (!all_begun() && counter.n_ended < batch && session.engine->step()) {
    }
    const auto first = Clock::now();
    const int64_t before = counter.n_tokens;
    // From here to the first that ends, every step has the whole batch and nothing else. Those whose prompts came first
    // may have ended before; then what is left counts.
    const bool whole = counter.n_ended == 0;
    while (whole ? counter.n_ended == 0 : counter.n_ended < batch) {
      const auto at = Clock::now();
      if (!session.engine->step()) break;
      steps.push_back(seconds_of(Clock::now() - at) * 1e6);
      // Of the first step alone, so that counting takes no time from the others.
      if (whole && counts && counter.n_tokens == before + batch) bytes.push_back(bytes_of_step(*session.model, batch, options.n_prompt + options.n_decode / 2));
    }
    const auto end = Clock::now();
    const int64_t after = counter.n_tokens;
    while (counter.n_ended < batch && session.engine->step()) {
    }
    if (!counter.problem.empty()) return moe::internal(counter.problem);
    prefill.push_back(static_cast<double>(batch * options.n_prompt) / seconds_of(first - start));
    decode.push_back(static_cast<double>(after - before) / seconds_of(end - first));
  }
  out.prefill_tokens_per_s = median(prefill);
  out.decode_tokens_per_s = median(decode);
  out.step_bytes = median(bytes);
  std::sort(steps.begin(), steps.end());
  if (!steps.empty()) {
    out.step_us = steps[steps.size() / 2];
    out.p99_step_us = steps[steps.size() * 99 / 100];
  }
  return out;
}

}  // namespace patchbay
