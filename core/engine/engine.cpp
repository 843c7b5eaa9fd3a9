#include "core/engine/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/engine/admission.hpp"
#include "core/engine/model.hpp"
#include "core/engine/scheduler.hpp"

namespace patchbay {
namespace {

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// log(sum(exp)) of a row, in double.
double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l) - largest);
  return largest + std::log(sum);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, double normalizer, int32_t n) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto kept = std::min<size_t>(static_cast<size_t>(n), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<size_t>(a)];
    const float lb = logits[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  });
  std::vector<TokenLogprob> out;
  for (size_t i = 0; i < kept; ++i) out.push_back({order[i], static_cast<float>(logits[static_cast<size_t>(order[i])] - normalizer)});
  return out;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(std::shared_ptr<Model> model, std::shared_ptr<const SamplerChain> chain, const EngineOptions& options)
      : model_(std::move(model)), chain_(std::move(chain)), scheduler_(model_->limits(), options),
        admission_({options.batch_size, options.batch_tokens, options.queue, options.queue_s}), pool_(options.pool) {
    stats_.cache_pages = model_->limits().n_pages;
    stats_.page_tokens = model_->limits().page_tokens;
    stats_.last_progress = Clock::now();
    for (const auto& layer : model_->layers()) {
      if (!layer.dense) stats_.expert_tokens.emplace_back(static_cast<size_t>(layer.n_experts), 0);
    }
    stats_.unassigned.assign(stats_.expert_tokens.size(), 0);
  }
  ~EngineImpl() override { stop(); }

  moe::Result<uint64_t> submit(Request request, RequestSink* sink) override;
  void cancel(uint64_t request) override;
  bool step() override;
  void start() override;
  void drain() override {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  [[nodiscard]] bool idle() const override {
    const std::lock_guard lock(mutex_);
    return n_alive_ == 0;
  }
  void stop() override;
  [[nodiscard]] EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.last_progress = std::max(stats.last_progress, model_->last_progress());
    return stats;
  }
  void set_queue(int64_t queue, double queue_s) override {
    const std::lock_guard lock(mutex_);
    admission_.set_queue(queue, queue_s);
  }
  [[nodiscard]] moe::Status has_room() const override {
    const std::lock_guard lock(mutex_);
    MOE_TRY(check_serving());
    return admission_.check(1, std::nullopt, Clock::now());
  }
  moe::Status set_chain(std::shared_ptr<const SamplerChain> chain) override {
    const std::lock_guard lock(mutex_);
    if (!chain->has_links_of(*chain_)) return moe::precondition("sampler: expected the same links, got others: this needs a restart");
    chain_ = std::move(chain);
    return {};
  }
  [[nodiscard]] int64_t context() const override { return model_->context(); }
  [[nodiscard]] int64_t n_vocab() const override { return model_->spec().n_vocab; }

 private:
  [[nodiscard]] moe::Status check_serving() const {
    if (draining_ || stopping_) return moe::Error{MOE_UNAVAILABLE, "the engine takes no new requests: it is shutting down"};
    return {};
  }
  void take_inbox();
  void end_cancelled_and_late();
  void note_starts(Clock::time_point now);
  [[nodiscard]] bool wants_largest_only();
  moe::Status run_step();
  void sample_and_publish();
  void emit(Sequence& s, const SampleRow& row, double normalizer, std::span<const float> raw);
  void count_experts();
  void finish(Sequence* s, FinishReason reason, const moe::Error* error);
  void publish_stats(Clock::time_point started);
  void read_scheduler(Clock::time_point now);

  [[nodiscard]] std::shared_ptr<const SamplerChain> chain() const {
    const std::lock_guard lock(mutex_);
    return chain_;
  }

  std::shared_ptr<Model> model_;
  std::shared_ptr<const SamplerChain> chain_;  // guarded

  // Of the stepping thread alone.
  std::shared_ptr<const SamplerChain> step_chain_;
  Scheduler scheduler_;
  Batch batch_;
  float* logits_ = nullptr;           // of the step, in the host's memory; null where only the largest are
  const int32_t* largest_ = nullptr;
  std::vector<SampleRow> rows_;
  std::vector<std::pair<TokenOut, double>> outs_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Sequence>> inbox_;
  std::vector<uint64_t> cancels_;
  EngineStats stats_;
  int64_t n_alive_ = 0;
  Admission admission_;
  ThreadPool* pool_;
  uint64_t next_id_ = 1;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

moe::Result<uint64_t> EngineImpl::submit(Request request, RequestSink* sink) {
  const auto n_prompt = static_cast<int64_t>(request.prompt.size());
  if (n_prompt == 0) return moe::invalid("prompt: expected at least one token, got none");
  if (n_prompt >= context()) return moe::invalid(fmt::format("prompt: expected at most {} tokens (the context less one), got {}", context() - 1, n_prompt));
  for (const int32_t id : request.prompt) {
    if (id < 0 || id >= n_vocab()) return moe::invalid(fmt::format("prompt: expected ids in [0, {}), got {}", n_vocab(), id));
  }
  if (request.max_tokens < 0) return moe::invalid(fmt::format("max_tokens: expected at least 1, got {}", request.max_tokens));
  auto sequence = std::make_unique<Sequence>();
  MOE_ASSIGN(sequence->sampling, chain()->start(request.sampling));
  sequence->tokens = request.prompt;
  sequence->n_prompt = n_prompt;
  const int64_t room = context() - n_prompt;
  sequence->max_tokens = request.max_tokens == 0 ? room : std::min(request.max_tokens, room);
  sequence->request = std::move(request);
  sequence->sink = sink;
  sequence->submitted = Clock::now();
  const std::lock_guard lock(mutex_);
  MOE_TRY(check_serving());
  MOE_TRY(admission_.check(n_prompt, sequence->request.deadline, sequence->submitted));
  sequence->foretold_wait_s = admission_.wait_s(sequence->submitted);
  admission_.entered(n_prompt);
  sequence->id = next_id_++;
  const uint64_t id = sequence->id;
  inbox_.push_back(std::move(sequence));
  ++n_alive_;
  wake_.notify_one();
  return id;
}

void EngineImpl::cancel(uint64_t request) {
  const std::lock_guard lock(mutex_);
  cancels_.push_back(request);
  wake_.notify_one();
}

void EngineImpl::take_inbox() {
  std::vector<std::unique_ptr<Sequence>> arrived;
  std::vector<uint64_t> cancels;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
    cancels.swap(cancels_);
  }
  for (auto& s : arrived) scheduler_.add(std::move(s));
  if (cancels.empty()) return;
  scheduler_.select([&](Sequence& s) { return s.cancelled = s.cancelled || std::find(cancels.begin(), cancels.end(), s.id) != cancels.end(); });
}

void EngineImpl::end_cancelled_and_late() {
  const auto now = Clock::now();
  for (Sequence* s : scheduler_.select([](const Sequence& q) { return q.cancelled; })) finish(s, FinishReason::kCancelled, nullptr);
  for (Sequence* s : scheduler_.select([&](const Sequence& q) { return q.request.deadline && *q.request.deadline <= now; })) {
    const moe::Error late{MOE_DEADLINE_EXCEEDED, "the deadline passed before the request was done"};
    finish(s, FinishReason::kFailed, &late);
  }
}

void EngineImpl::finish(Sequence* s, FinishReason reason, const moe::Error* error) {
  const std::unique_ptr<Sequence> owned = scheduler_.remove(s, reason == FinishReason::kFailed);
  owned->usage.n_prompt = owned->n_prompt;
  owned->usage.n_generated = owned->n_generated();
  const auto now = Clock::now();
  const auto started = owned->has_started ? owned->started : now;
  owned->usage.queue_s = seconds(started - owned->submitted);
  if (owned->usage.n_generated > 0) {
    owned->usage.prefill_s = seconds(owned->first_out - started);
    owned->usage.decode_s = seconds(owned->last_out - owned->first_out);
  }
  owned->sink->on_end(owned->id, reason, error, owned->usage);
  const std::lock_guard lock(mutex_);
  if (owned->has_started && reason != FinishReason::kFailed) admission_.run_ended(owned->n_generated());
  --n_alive_;
  if (reason == FinishReason::kCancelled) {
    ++stats_.requests_cancelled;
  } else if (reason == FinishReason::kFailed) {
    ++stats_.requests_failed;
  } else {
    ++stats_.requests_done;
  }
}

bool EngineImpl::step() {
  take_inbox();
  end_cancelled_and_late();
  if (scheduler_.empty()) {
    const std::lock_guard lock(mutex_);
    read_scheduler(Clock::now());
    stats_.last_progress = Clock::now();
    return false;
  }
  const auto started = Clock::now();
  scheduler_.schedule(batch_);
  note_starts(started);
  if (batch_.n_tokens() == 0) {
    // Nobody fits, not even alone: the one at the head holds more than the whole cache.
    auto stuck = scheduler_.select([](const Sequence&) { return true; });
    const moe::Error full = moe::exhausted("cache: the request needs more pages than there are; engine.cache_tokens raises it");
    finish(stuck.front(), FinishReason::kFailed, &full);
    return true;
  }
  if (const moe::Status status = run_step(); !status.ok()) {
    const auto failed = scheduler_.scheduled();
    for (Sequence* s : failed) finish(s, FinishReason::kFailed, &status.error());
    publish_stats(started);
    return true;
  }
  count_experts();
  sample_and_publish();
  publish_stats(started);
  return true;
}

void EngineImpl::note_starts(Clock::time_point now) {
  for (Sequence* s : scheduler_.scheduled()) {
    if (std::exchange(s->has_started, true)) continue;
    s->started = now;
    const std::lock_guard lock(mutex_);
    admission_.began(s->foretold_wait_s, seconds(now - s->submitted));
  }
}

// Whether every token that this step gives is the largest of its row, and nobody asks for more.
bool EngineImpl::wants_largest_only() {
  const auto chain = this->chain();
  return std::ranges::all_of(scheduler_.scheduled(), [&](const Sequence* s) {
    const bool sampled = s->n_pending() == s->n_scheduled;
    return !sampled || (s->request.top_logprobs < 0 && chain->picks_largest(s->sampling));
  });
}

moe::Status EngineImpl::run_step() {
  logits_ = nullptr;
  largest_ = nullptr;
  if (wants_largest_only()) {
    MOE_ASSIGN(largest_, model_->forward_to_largest(batch_));
  } else {
    MOE_ASSIGN(logits_, model_->forward(batch_));
  }
  return {};
}

void EngineImpl::sample_and_publish() {
  rows_.clear();
  outs_.clear();
  std::vector<Sequence*> sampled;
  const auto n_vocab = static_cast<size_t>(model_->spec().n_vocab);
  for (Sequence* s : scheduler_.scheduled()) {
    scheduler_.advance(*s);
    if (s->n_pending() > 0) continue;
    SampleRow row;
    row.state = &s->sampling;
    if (largest_ != nullptr) {
      const int32_t found = largest_[sampled.size()];
      row.token = found < 0 ? MOE_PICKED_FAILED : found;
    } else {
      row.logits = logits_ + sampled.size() * n_vocab;
    }
    row.history = &s->tokens;
    row.n_prompt = s->n_prompt;
    row.seed = s->request.seed;
    TokenOut out;
    double normalizer = 0;
    if (s->request.top_logprobs >= 0) {  // from the model's own logits: the chain changes them
      const std::span<const float> raw(row.logits, n_vocab);
      normalizer = log_sum_exp(raw);
      out.top = top_logprobs(raw, normalizer, s->request.top_logprobs);
    }
    outs_.emplace_back(std::move(out), normalizer);
    sampled.push_back(s);
    rows_.push_back(std::move(row));
  }
  // The log-probability of the token that will be chosen needs its own logit, which the chain may change.
  std::vector<std::vector<float>> originals(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (sampled[i]->request.top_logprobs >= 0) originals[i].assign(rows_[i].logits, rows_[i].logits + n_vocab);
  }
  step_chain_ = chain();  // its links are those of every state, whatever the values
  step_chain_->sample(rows_, pool_);
  for (size_t i = 0; i < sampled.size(); ++i) emit(*sampled[i], rows_[i], outs_[i].second, originals[i]);
}

// The plan of position `token` of the batch, layer by layer.
std::vector<int32_t> experts_of(Model& model, int64_t token) {
  std::vector<int32_t> out;
  for (int64_t l = 0; l < model.n_moe_layers(); ++l) {
    const Model::PlanView view = model.plan(l);
    const auto row = view.ids.subspan(static_cast<size_t>(token * view.k), static_cast<size_t>(view.k));
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

// The first router whose weights for the tokens [first, first + n) are no numbers, for the message about a request that failed: "; router
// \"x\" gave NaN weights in layer 3". Empty if all are.
std::string suspect_router(Model& model, int64_t first, int64_t n) {
  int64_t moe_layer = 0;
  for (size_t l = 0; l < model.layers().size() && moe_layer < model.n_moe_layers(); ++l) {
    if (model.layers()[l].router.empty()) continue;
    const int64_t k = model.plan(moe_layer).k;
    const auto weights = model.plan_weights(moe_layer++);
    if (!weights.ok()) return "";
    const auto rows = weights->subspan(static_cast<size_t>(first * k), static_cast<size_t>(n * k));
    if (std::any_of(rows.begin(), rows.end(), [](float w) { return !std::isfinite(w); }))
      return fmt::format("; router \"{}\" gave weights that are none in layer {}", model.layers()[l].router, l);
  }
  return "";
}

void EngineImpl::emit(Sequence& s, const SampleRow& row, double normalizer, std::span<const float> original) {
  if (!row.problem.empty()) {
    const moe::Error error = moe::internal(row.problem + suspect_router(*model_, s.first_token, s.n_scheduled));
    finish(&s, FinishReason::kFailed, &error);
    return;
  }
  const auto now = Clock::now();
  const auto& stops = s.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), row.token) != stops.end()) {
    finish(&s, FinishReason::kStop, nullptr);
    return;
  }
  TokenOut& out = outs_[static_cast<size_t>(&row - rows_.data())].first;
  out.id = row.token;
  if (!original.empty()) out.logprob = static_cast<float>(original[static_cast<size_t>(row.token)] - normalizer);
  if (s.request.trace_routing) out.experts = experts_of(*model_, s.first_token + s.n_scheduled - 1);
  if (s.n_generated() == 0) s.first_out = now;
  s.last_out = now;
  s.tokens.push_back(row.token);
  step_chain_->accept(s.sampling, row.token);
  s.sink->on_token(s.id, out);
  if (s.n_generated() >= s.max_tokens) finish(&s, FinishReason::kLength, nullptr);
}

void EngineImpl::count_experts() {
  const std::lock_guard lock(mutex_);
  for (int64_t l = 0; l < model_->n_moe_layers(); ++l) {
    const Model::PlanView view = model_->plan(l);
    auto& counts = stats_.expert_tokens[static_cast<size_t>(l)];
    for (const int32_t id : view.ids) {
      if (id >= 0 && static_cast<size_t>(id) < counts.size()) ++counts[static_cast<size_t>(id)];
      if (id < 0) ++stats_.unassigned[static_cast<size_t>(l)];
    }
  }
}

void EngineImpl::publish_stats(Clock::time_point started) {
  const auto now = Clock::now();
  uint64_t n_sampled = 0;
  for (const auto& row : rows_) n_sampled += row.token >= 0 ? 1 : 0;
  const std::lock_guard lock(mutex_);
  ++stats_.steps;
  stats_.step_seconds += seconds(now - started);
  stats_.step_times.add(seconds(now - started));
  stats_.last_progress = now;
  stats_.tokens_generated += n_sampled;
  stats_.tokens_prefilled += static_cast<uint64_t>(batch_.n_tokens()) - std::min(n_sampled, static_cast<uint64_t>(batch_.n_tokens()));
  admission_.step_took(seconds(now - started), batch_.n_tokens());
  read_scheduler(now);
}

// What metrics and admission know of who runs and waits. With the lock.
void EngineImpl::read_scheduler(Clock::time_point now) {
  stats_.n_running = scheduler_.n_running();
  stats_.n_waiting = scheduler_.n_waiting() + static_cast<int64_t>(inbox_.size());
  stats_.cache_pages_used = scheduler_.pages_used();
  stats_.cache_pages_idle = scheduler_.pages_idle();
  stats_.tokens_reused = scheduler_.n_reused();
  stats_.preemptions = scheduler_.n_preemptions();
  Admission::State state;
  for (const auto& s : scheduler_.running()) state.running.push_back({s->n_pending(), s->n_generated(), s->max_tokens - s->n_generated()});
  for (const auto& s : scheduler_.waiting()) state.n_waiting_tokens += s->n_tokens();
  for (const auto& s : inbox_) state.n_waiting_tokens += s->n_tokens();
  state.n_waiting = stats_.n_waiting;
  state.short_of_pages = scheduler_.is_short_of_pages();
  state.at = now;
  admission_.observe(std::move(state));
}

void EngineImpl::start() {
  thread_ = std::thread([this] {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        if (stopping_) return;
      }
      if (step()) continue;
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, std::chrono::milliseconds(200), [this] { return stopping_ || !inbox_.empty() || !cancels_.empty(); });
    }
  });
}

void EngineImpl::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  take_inbox();
  for (Sequence* s : scheduler_.select([](const Sequence&) { return true; })) finish(s, FinishReason::kCancelled, nullptr);
}

}  // namespace

moe::Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<Model> model, std::shared_ptr<const SamplerChain> chain, const EngineOptions& options) {
  return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(std::move(model), std::move(chain), options));
}

}  // namespace patchbay
