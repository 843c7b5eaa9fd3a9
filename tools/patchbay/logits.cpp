// patchbay logits: the model's logits for given token ids, for comparing with other implementations.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/json/json.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/npy.hpp"
#include "tools/patchbay/sequence_pass.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct LogitsFlags {
  CommonFlags common;
  std::string tokens;
  std::string out;
  std::string routes;
};

moe::Result<std::vector<int32_t>> read_ids(const std::string& file, int64_t n_vocab) {
  MOE_ASSIGN(const nlohmann::json doc, parse_json_file(file));
  if (!doc.is_array() || doc.empty()) return moe::invalid(fmt::format("{}: expected a JSON array of token ids, got something else", file));
  std::vector<int32_t> ids;
  for (const auto& item : doc) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() >= n_vocab) {
      return moe::invalid(fmt::format("{}: item {}: expected an id in [0, {}), got {}", file, ids.size(), n_vocab, item.dump()));
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

// Each MoE layer's decisions, position by position.
class RouteLog {
 public:
  moe::Status add(Model& model) {
    if (layers_.empty()) layers_.resize(static_cast<size_t>(model.n_moe_layers()));
    for (int64_t l = 0; l < model.n_moe_layers(); ++l) {
      const Model::PlanView view = model.plan(l);
      MOE_ASSIGN(const auto plan_weights, model.plan_weights(l));
      for (size_t at = 0; at < view.ids.size(); at += static_cast<size_t>(view.k)) {
        nlohmann::json ids, weights;
        for (size_t j = at; j < at + static_cast<size_t>(view.k); ++j) {
          ids.push_back(view.ids[j]);
          weights.push_back(plan_weights[j]);
        }
        layers_[static_cast<size_t>(l)]["ids"].push_back(ids);
        layers_[static_cast<size_t>(l)]["weights"].push_back(weights);
      }
    }
    return {};
  }
  [[nodiscard]] nlohmann::json json() const { return {{"layers", layers_}}; }

 private:
  std::vector<nlohmann::json> layers_;
};

void logits(const LogitsFlags& flags) {
  SessionNeeds needs;
  needs.text = false;
  needs.defaults = [](Settings& s) { s.engine.batch_size = std::max<int64_t>(s.engine.batch_size, 32); };
  Session session = value_or_fail(open_session(flags.common, needs));
  Model& model = *session.model;
  const auto ids = value_or_fail(read_ids(flags.tokens, model.spec().n_vocab));
  const auto n = static_cast<int64_t>(ids.size());
  if (n > model.context()) fail(moe::invalid(fmt::format("{}: expected at most {} ids (the context), got {}", flags.tokens, model.context(), n)));
  NpyWriter out = value_or_fail(NpyWriter::create(flags.out, n, model.spec().n_vocab));
  RouteLog routes;
  ok_or_fail(run_sequence(model, ids, [&](int64_t, std::span<const float> rows) -> moe::Status {
    MOE_TRY(out.write(rows.data(), rows.size()));
    return flags.routes.empty() ? moe::Status() : routes.add(model);
  }));
  ok_or_fail(out.finish());
  if (!flags.routes.empty()) {
    std::ofstream file(flags.routes);
    file << routes.json().dump() << "\n";
    if (!file) fail(moe::exhausted(fmt::format("{}: could not be written", flags.routes)));
  }
  if (flags.common.json) {
    fmt::print("{}\n", nlohmann::json{{"tokens", n}, {"n_vocab", model.spec().n_vocab}, {"out", flags.out}}.dump());
  } else if (!flags.common.quiet) {
    fmt::print("{}: f32 [{}, {}]\n", flags.out, n, model.spec().n_vocab);
  }
}

}  // namespace

void add_logits(CLI::App& app) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* command = app.add_subcommand("logits", "Write the logits for given token ids as a .npy file");
  add_common_flags(*command, flags->common);
  command->add_option("--tokens", flags->tokens, "JSON array of token ids")->required()->type_name("FILE");
  command->add_option("--out", flags->out, "where to write f32 [n_tokens, n_vocab]")->required()->type_name("FILE");
  command->add_option("--routes", flags->routes, "also write each MoE layer's ids and weights as JSON")->type_name("FILE");
  command->callback([flags] { logits(*flags); });
}

}  // namespace patchbay
