#include "tools/patchbay/cell_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/experiment/load_history.hpp"
#include "core/model/json/json.hpp"
#include "core/service/load_balance.hpp"
#include "tools/patchbay/bandwidth.hpp"
#include "tools/patchbay/model_report.hpp"
#include "tools/patchbay/report.hpp"
#include "tools/patchbay/speed.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

constexpr size_t kMaxTextBytes = size_t{64} << 20;

moe::Result<Session> open_cell(const Cell& cell, const SpeedMeasure* speed) {
  MOE_ASSIGN(Settings settings, settings_from_node(cell.config));
  SessionNeeds needs;
  needs.text = cell.accuracy || cell.text;
  if (speed != nullptr) {
    needs.defaults = [&](Settings& s) {
      const int64_t room = speed->prompt_tokens + speed->decode_tokens + 2 + s.engine.page_tokens;
      if (s.engine.cache_tokens != 0) s.engine.cache_tokens = std::max(s.engine.cache_tokens, room);
    };
  }
  return open_session(std::move(settings), needs, false);
}

// What the cell is made of, for tables and labels.
moe::Result<json> facts_of(Session& session, double experts_a_token) {
  json layers = json::array();
  for (size_t l = 0; l < session.model->layers().size(); ++l) {
    const LayerInfo& info = session.model->layers()[l];
    if (info.dense) continue;
    layers.push_back({{"layer", l},
                      {"router", info.router},
                      {"k", info.k},
                      {"n_experts", info.n_experts},
                      {"backend", info.expert_backend}});
  }
  MOE_ASSIGN(const ModelReport report, inspect_model(session.settings, session.registry, *session.host));
  const ModelBytes& bytes = session.model->bytes();
  json facts = {{"layers", layers},
                {"weight_bytes", bytes.weights},
                {"memory_bytes", bytes.weights + bytes.cache + bytes.scratch}};
  if (report.outline) {
    const ParameterCount count = count_parameters(*report.outline, experts_a_token);
    facts.update({{"parameters", count.total}, {"active_parameters", count.active}});
  }
  return facts;
}

// A model that says which router it was trained with does so rightly.
moe::Status check_router(const Session& session, const ExperimentModel& model, const Cell& cell) {
  if (!cell.own_router || model.router.empty()) return {};
  for (const LayerInfo& layer : session.model->layers()) {
    if (!layer.dense && layer.router != model.router) {
      return moe::invalid(
          fmt::format("{}: models.{}.router: expected \"{}\", which the checkpoint asks for, got \"{}\"", model.where,
                      model.name, layer.router, model.router));
    }
  }
  return {};
}

json balance_of(const std::vector<std::vector<uint64_t>>& load) {
  double max_over_mean = 0, variation = 0, entropy = 0;
  json layers = json::array();
  for (const auto& tokens : load) {
    const LoadBalance b = load_balance(tokens);
    max_over_mean = std::max(max_over_mean, b.max_over_mean);
    variation += b.variation;
    entropy += b.entropy;
    layers.push_back({{"max_over_mean", b.max_over_mean}, {"variation", b.variation}, {"entropy", b.entropy}});
  }
  if (load.empty()) return nullptr;
  const auto n = static_cast<double>(load.size());
  return {{"max_over_mean", max_over_mean}, {"variation", variation / n}, {"entropy", entropy / n}, {"layers", layers}};
}

}  // namespace

moe::Result<CellRunner> CellRunner::create(const Experiment& experiment, Says says) {
  CellRunner out(experiment, std::move(says));
  if (experiment.accuracy) {
    MOE_ASSIGN(out.problems_, read_problems(experiment.accuracy->problems.string(), experiment.accuracy->limit));
  }
  if (experiment.text) {
    MOE_ASSIGN(out.text_, read_file(experiment.text->file, kMaxTextBytes));
  }
  return out;
}

moe::Result<json> CellRunner::run(const Cell& cell) {
  says_("loading");
  // Before this cell's own model is there: two need not fit into memory.
  if (cell.text) MOE_TRY(baseline_of(cell));
  MOE_ASSIGN(Session session, open_cell(cell, cell.speed ? &*experiment_->speed : nullptr));
  const auto model = std::find_if(experiment_->models.begin(), experiment_->models.end(),
                                  [&](const auto& m) { return m.name == cell.model; });
  MOE_TRY(check_router(session, *model, cell));
  json out;
  double experts_a_token = 0;
  if (cell.text) {
    MOE_ASSIGN(out["text"], measure_text(session, cell));
    experts_a_token = out["text"].value("experts_a_token", 0.0);
  }
  if (cell.accuracy) {
    MOE_ASSIGN(out["accuracy"], measure_accuracy(session));
  }
  if (interrupted()) return moe::Error{MOE_CANCELLED, "interrupted"};
  if (cell.speed) {
    MOE_ASSIGN(out["speed"], measure_speed_of(session));
  }
  if (interrupted()) return moe::Error{MOE_CANCELLED, "interrupted"};
  MOE_ASSIGN(out["model_facts"], facts_of(session, experts_a_token));
  return out;
}

// The predictions that a cell is compared with: null where it is its own baseline.
moe::Result<const Predictions*> CellRunner::baseline_of(const Cell& cell) {
  const std::string& named = experiment_->text->baseline;
  const Cell* other = nullptr;
  if (named.empty()) {
    if (cell.reference) other = &experiment_->cells[*cell.reference];
  } else {
    for (const Cell& c : experiment_->cells) {
      if (c.id == named) other = &c;
    }
  }
  if (other == nullptr || other->id == cell.id) return static_cast<const Predictions*>(nullptr);
  if (baseline_id_ != other->id) {
    says_(fmt::format("predictions of {}", other->id));
    Cell alone = *other;
    alone.text = true;
    MOE_ASSIGN(Session session, open_cell(alone, nullptr));
    MOE_ASSIGN(const TokenTexts texts, tokenize_texts(text_, *experiment_->text, session));
    MOE_ASSIGN(const TextScore score, score_texts(session, texts, nullptr, &baseline_));
    baseline_id_ = other->id;
  }
  return static_cast<const Predictions*>(&baseline_);
}

moe::Result<json> CellRunner::measure_text(Session& session, const Cell& cell) {
  MOE_ASSIGN(const Predictions* baseline, baseline_of(cell));
  says_("text");
  MOE_ASSIGN(const TokenTexts texts, tokenize_texts(text_, *experiment_->text, session));
  MOE_ASSIGN(const TextScore score, score_texts(session, texts, baseline, nullptr));
  json out = score.routing.json();
  out.update({{"tokens", score.n_predicted}, {"perplexity", score.perplexity}});
  if (baseline != nullptr) out.update({{"kl", score.kl}, {"baseline", baseline_id_}});
  return out;
}

moe::Result<json> CellRunner::measure_accuracy(Session& session) {
  const AccuracyMeasure& measure = *experiment_->accuracy;
  Engine& engine = *session.engine;
  LoadHistory history;
  std::vector<json> samples(std::min(problems_.size(), static_cast<size_t>(measure.samples)));
  uint64_t step = 0;
  EvaluationOptions options;
  options.max_tokens = measure.max_tokens;
  options.greedy = measure.greedy;
  options.on_step = [&] {
    if (history.wants(step)) history.add(step, engine.stats().expert_tokens);
    ++step;
  };
  options.on_answer = [&](const Answer& answer, const Score& score) {
    if (answer.index < samples.size()) {
      samples[answer.index] = {{"question", problems_[answer.index].question},
                               {"expected", problems_[answer.index].answer},
                               {"text", answer.text},
                               {"right", answer.right}};
    }
    says_(fmt::format("{} of {} answered, {} right", score.total, problems_.size(), score.right));
  };
  const auto start = std::chrono::steady_clock::now();
  MOE_ASSIGN(const Score score, evaluate(session, problems_, options));
  const double seconds = seconds_of(std::chrono::steady_clock::now() - start);
  const EngineStats stats = engine.stats();
  json heat = json::array();
  for (const HeatRow& row : heat_rows(*session.model, stats.expert_tokens)) {
    heat.push_back({{"layer", row.layer}, {"router", row.router}, {"k", row.k}, {"tokens", row.tokens}});
  }
  const auto total = static_cast<double>(std::max<int64_t>(score.total, 1));
  return json{{"right", score.right},
              {"total", score.total},
              {"accuracy", static_cast<double>(score.right) / total},
              {"generated_tokens", score.n_generated},
              {"seconds", seconds},
              {"tokens_per_second", static_cast<double>(score.n_generated) / seconds},
              {"balance", balance_of(stats.expert_tokens)},
              {"load", heat},
              {"load_over_time", history.json()},
              {"samples", samples}};
}

moe::Result<json> CellRunner::measure_speed_of(Session& session) {
  says_("speed");
  const SpeedMeasure& measure = *experiment_->speed;
  if (measure.prompt_tokens + measure.decode_tokens + 1 > session.model->context()) {
    return moe::invalid(fmt::format("measure.speed: expected at most {} tokens together (the context), got {}",
                                    session.model->context() - 1, measure.prompt_tokens + measure.decode_tokens));
  }
  const double before = measure_weights_bandwidth(*session.host, *session.model, 0.1);
  MOE_ASSIGN(const SpeedMeasurement speed,
             measure_speed(session, {measure.prompt_tokens, measure.decode_tokens, measure.rounds}, 1));
  const double bandwidth = std::max(before, measure_weights_bandwidth(*session.host, *session.model, 0.1));
  json out = {{"decode_tokens_per_second", speed.decode_tokens_per_s},
              {"prefill_tokens_per_second", speed.prefill_tokens_per_s},
              {"first_token_ms", 1e3 * static_cast<double>(measure.prompt_tokens) / speed.prefill_tokens_per_s},
              {"step_us_p99", speed.p99_step_us},
              {"threads", session.host->pool().n_threads()}};
  if (bandwidth > 0) {
    out["bandwidth_gb_per_second"] = bandwidth / 1e9;
    out["share_of_bandwidth"] = decode_speed(*session.model, 1, speed.step_us * 1e-6, bandwidth).share;
  }
  return out;
}

}  // namespace patchbay
