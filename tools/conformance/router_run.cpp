#include "tools/conformance/router_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "moe/sdk/growth.hpp"

namespace patchbay::conformance {
namespace {

template <typename T>
void append(std::vector<uint8_t>& out, const T* values, int64_t n) {
  const size_t at = out.size();
  const size_t n_bytes = static_cast<size_t>(n) * sizeof(T);
  out.resize(at + n_bytes);
  if (n_bytes > 0) std::memcpy(out.data() + at, values, n_bytes);
}

}  // namespace

RouterCall RouterCall::only(const std::vector<int64_t>& rows) const {
  RouterCall out;
  out.n = static_cast<int64_t>(rows.size());
  out.logits = rows_of(logits, n, rows);
  out.hidden = rows_of(hidden, n, rows);
  out.before_attention = rows_of(before_attention, n, rows);
  out.token_ids = rows_of(token_ids, n, rows);
  out.positions = rows_of(positions, n, rows);
  out.sequences = rows_of(sequences, n, rows);
  out.previous = {previous.k, rows_of(previous.ids, n, rows), rows_of(previous.weights, n, rows),
                  rows_of(previous.aux, n, rows)};
  return out;
}

std::vector<uint8_t> RouterPlan::row(int64_t i) const {
  std::vector<uint8_t> out;
  const int64_t used = std::clamp<int64_t>(count[static_cast<size_t>(i)], 0, k);
  append(out, &count[static_cast<size_t>(i)], 1);
  append(out, ids.data() + i * k, used);
  append(out, weights.data() + i * k, used);
  const auto n_aux = static_cast<int64_t>(aux.size() / count.size());
  append(out, aux.data() + i * n_aux, n_aux);
  return out;
}

moe::Result<std::unique_ptr<RouterRun>> RouterRun::create(Kit& kit, Component<moe_router> table,
                                                          const RouterSetup& setup) {
  MOE_ASSIGN(Compute * compute, kit.compute());
  std::unique_ptr<RouterRun> run(new RouterRun(*compute, std::move(table), setup));
  MOE_ASSIGN(const OptionValues options, check_options(run->table_.header(), setup.given, run->table_.header().name));
  MOE_TRY(across([&](moe_message* m) {
    return run->table_->create(kit.host().get(), &run->setup_.config, options.data(), options.size(), &run->instance_,
                               m);
  }));
  if (run->instance_ == nullptr) return moe::internal("create: expected an instance with MOE_OK, got null");
  MOE_TRY(across([&](moe_message* m) { return run->table_->describe(run->instance_, &run->spec_, m); }));
  MOE_TRY(moe::check_struct(&run->spec_, "spec"));
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.0F, 0.3F);
  const bool constant = setup.fill == WeightFill::kConstant;
  MOE_TRY(run->weights_.bind(
      run->spec_.weights, run->spec_.n_weights, [&] { return constant ? 0.25F : normal(random); }, setup.values));
  MOE_TRY(across([&](moe_message* m) {
    return run->table_->prepare(run->instance_, &run->compute_.abi(), run->weights_.data(), run->weights_.size(),
                                setup.max_tokens, &run->workspace_bytes_, m);
  }));
  run->deal_pages(1);
  return run;
}

RouterRun::~RouterRun() {
  if (instance_ != nullptr) table_->destroy(instance_);
}

void RouterRun::deal_pages(uint32_t seed) {
  std::mt19937 random(seed);
  page_table_.resize(static_cast<size_t>(kSequences * kPages));
  for (size_t i = 0; i < page_table_.size(); ++i) page_table_[i] = static_cast<int32_t>(i);
  std::shuffle(page_table_.begin(), page_table_.end(), random);
  if (spec_.context_floats == 0) return;
  context_memory_ = std::make_unique<CallMemory>(on_host() ? nullptr : &compute_);
  context_rows_ = context_memory_->tensor<float>("context", {}, kSequences * kPages * kPageTokens, spec_.context_floats,
                                                 CallMemory::Use::kOutput);
}

RouterCall RouterRun::random_call(int64_t n, uint32_t seed, float spread) const {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  RouterCall call;
  call.n = n;
  const auto fill = [&](std::vector<float>& out, int64_t width, float size) {
    out.resize(static_cast<size_t>(n * width));
    for (float& v : out) v = normal(random) * size;
  };
  fill(call.logits, spec_.n_logits, spread);
  fill(call.hidden, config().d_model, 1.0F);
  fill(call.before_attention, config().d_model, 1.0F);
  for (int64_t i = 0; i < n; ++i) {
    call.token_ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(config().n_vocab)));
    call.positions.push_back(static_cast<int32_t>(i));
    call.sequences.push_back(0);
  }
  if ((spec_.inputs & MOE_INPUT_PREVIOUS_PLAN) == 0 || config().layer == 0) return call;
  call.previous.k = std::min<int64_t>(2, n_ids());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < call.previous.k; ++j) {
      call.previous.ids.push_back(static_cast<int32_t>((i + j) % n_ids()));
      call.previous.weights.push_back(1.0F / static_cast<float>(j + 2));
    }
  }
  fill(call.previous.aux, spec_.aux_floats, 1.0F);
  return call;
}

moe::Status RouterRun::prepare_call(const RouterCall& call) {
  using Use = CallMemory::Use;
  call_ = call;
  memory_ = std::make_unique<CallMemory>(on_host() ? nullptr : &compute_);
  CallMemory& m = *memory_;
  const int64_t n = call.n;
  const int64_t d = config().d_model;
  const auto wants = [&](uint32_t input) { return (spec_.inputs & input) != 0; };
  args_ = moe::make<moe_route_args>();
  args_.n_tokens = n;
  args_.logits =
      spec_.n_logits > 0 ? m.tensor("logits", call.logits, n, spec_.n_logits, Use::kInput, 3) : moe::absent();
  args_.hidden = wants(MOE_INPUT_HIDDEN) ? m.tensor("hidden", call.hidden, n, d, Use::kInput, 1) : moe::absent();
  args_.before_attention = wants(MOE_INPUT_BEFORE_ATTENTION)
                               ? m.tensor("before_attention", call.before_attention, n, d, Use::kInput, 1)
                               : moe::absent();
  args_.token_ids = m.tensor("token_ids", call.token_ids, n, 0, Use::kInput);
  args_.positions = m.tensor("positions", call.positions, n, 0, Use::kInput);
  args_.sequences = m.tensor("sequences", call.sequences, n, 0, Use::kInput);
  previous_.reset();
  if (call.previous.k > 0) {
    previous_ = moe::make<moe_plan>();
    previous_->ids = m.tensor("previous ids", call.previous.ids, n, call.previous.k, Use::kInput);
    previous_->weights = m.tensor("previous weights", call.previous.weights, n, call.previous.k, Use::kInput);
    previous_->count = moe::absent();
    previous_->aux = spec_.aux_floats > 0
                         ? m.tensor("previous aux", call.previous.aux, n, spec_.aux_floats, Use::kInput)
                         : moe::absent();
    args_.previous = &*previous_;
  }
  args_.context = moe::make<moe_context>();
  args_.context.rows = spec_.context_floats > 0 ? context_rows_ : moe::absent();
  args_.context.pages.page_table = m.tensor("page table", page_table_, kSequences, kPages, Use::kInput);
  args_.context.pages.page_size = kPageTokens;
  if (spec_.context_floats > 0) context_before_ = context_memory_->values<float>(context_rows_);
  args_.plan = moe::make<moe_plan>();
  args_.plan.ids = m.tensor<int32_t>("ids", {}, n, spec_.k_max, Use::kOutput, 2);
  args_.plan.weights = m.tensor<float>("weights", {}, n, spec_.k_max, Use::kOutput, 2);
  args_.plan.count = spec_.dynamic != 0 ? m.tensor<int32_t>("count", {}, n, 0, Use::kOutput) : moe::absent();
  args_.plan.aux =
      spec_.aux_floats > 0 ? m.tensor<float>("aux", {}, n, spec_.aux_floats, Use::kOutput, 1) : moe::absent();
  args_.plan.weight_on = spec_.weight_on;
  args_.workspace = m.add("workspace", nullptr, workspace_bytes_, Use::kOutput);
  args_.workspace_bytes = workspace_bytes_;
  return m.status();
}

moe::Status RouterRun::refill(const RouterCall& call) {
  auto memory = std::move(memory_);
  const moe_route_args args = args_;
  MOE_TRY(prepare_call(call));
  memory->refill(*memory_);
  memory_ = std::move(memory);
  args_ = args;
  return memory_->status();
}

moe::Status RouterRun::launch() {
  const CheckHost::ComputeScope scope;
  return across([&](moe_message* m) { return table_->route(instance_, &args_, m); });
}

moe::Result<RouterPlan> RouterRun::finish() {
  if (!on_host()) MOE_TRY(compute_.sync());
  RouterPlan plan;
  plan.k = spec_.k_max;
  plan.ids = memory_->values<int32_t>(args_.plan.ids);
  plan.weights = memory_->values<float>(args_.plan.weights);
  plan.count = memory_->values<int32_t>(args_.plan.count);
  if (spec_.dynamic == 0) plan.count.assign(static_cast<size_t>(call_.n), static_cast<int32_t>(spec_.k_max));
  plan.aux = memory_->values<float>(args_.plan.aux);
  MOE_TRY(memory_->status());
  return plan;
}

// A router writes the context rows of its call's tokens, and no others.
moe::Status RouterRun::check_context_writes(const RouterCall& call) {
  const auto now = context_memory_->values<float>(context_rows_);
  std::vector<bool> own(static_cast<size_t>(kSequences * kPages * kPageTokens));
  for (size_t i = 0; i < call.positions.size(); ++i) {
    const int64_t p = call.positions[i];
    const int64_t page = page_table_[static_cast<size_t>(call.sequences[i] * kPages + p / kPageTokens)];
    own[static_cast<size_t>(page * kPageTokens + p % kPageTokens)] = true;
  }
  const auto width = static_cast<size_t>(spec_.context_floats);
  for (size_t r = 0; r < own.size(); ++r) {
    if (own[r] || std::memcmp(&now[r * width], &context_before_[r * width], width * 4) == 0) continue;
    return moe::invalid(
        fmt::format("context: expected writes to the rows of the call's tokens only, got one to row {}", r));
  }
  return {};
}

std::string RouterRun::violations() {
  if (std::string found = memory_->violations(); !found.empty()) return found;
  if (spec_.context_floats == 0) return "";
  if (std::string found = context_memory_->violations(); !found.empty()) return found;
  const auto status = check_context_writes(call_);
  return status.ok() ? "" : status.error().message;
}

moe::Result<RouterPlan> RouterRun::route(const RouterCall& call) {
  MOE_TRY(prepare_call(call));
  MOE_TRY(launch());
  return finish();
}

void RouterRun::retire() {
  if (!on_host()) (void)compute_.sync();
  memory_->spoil();
  retired_.push_back(std::move(memory_));
}
std::string RouterRun::writes_to_retired() {
  for (auto& memory : retired_) {
    if (std::string found = memory->violations(true); !found.empty()) return found;
  }
  return "";
}

}  // namespace patchbay::conformance
