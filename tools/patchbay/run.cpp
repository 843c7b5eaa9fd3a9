// patchbay run: one answer, streamed; then how fast it was and what the experts did.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/model/json/json.hpp"
#include "core/service/text_generator.hpp"
#include "tools/patchbay/bandwidth.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/report.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct RunFlags {
  CommonFlags common;
  std::string prompt;
  std::string chat;
  std::string prompt_ids;  // a JSON array
  std::vector<std::string> parameters;  // name=value
  std::vector<std::string> stop;
  int64_t max_tokens = 0;
  double temperature = 0;
  bool has_temperature = false;
  uint64_t seed = 0;
  bool ignore_end = false;
};

moe::Result<SamplingParameter> parse_parameter(const std::string& text) {
  MOE_ASSIGN(const TomlNode node, parse_override(text));
  const auto& [key, value] = node.table()->front();
  SamplingParameter p;
  p.name = key;
  if (const auto* b = std::get_if<bool>(&value.value)) {
    p.value = *b;
  } else if (const auto* i = std::get_if<int64_t>(&value.value)) {
    p.value = *i;
  } else if (const auto* f = std::get_if<double>(&value.value)) {
    p.value = *f;
  } else if (const auto* s = std::get_if<std::string>(&value.value)) {
    p.value = *s;
  } else {
    return moe::invalid(fmt::format("--param {}: expected name=value, got {}", text, value.type_name()));
  }
  return p;
}

moe::Result<TextRequest> request_of(const RunFlags& flags) {
  TextRequest request;
  if (!flags.chat.empty()) {
    request.prompt = ChatPrompt{nlohmann::ordered_json::array({{{"role", "user"}, {"content", flags.chat}}}), {}};
  } else if (!flags.prompt_ids.empty()) {
    auto doc = parse_json(flags.prompt_ids);
    if (!doc.ok()) return doc.error().in("--prompt-ids");
    std::vector<int32_t> ids;
    for (const auto& item : *doc) {
      if (!item.is_number_integer()) return moe::invalid(fmt::format("--prompt-ids: expected a JSON array of token ids, got {}", item.dump()));
      ids.push_back(item.get<int32_t>());
    }
    request.prompt = std::move(ids);
  } else if (!flags.prompt.empty()) {
    request.prompt = flags.prompt;
  } else {
    if (isatty(0) == 1) return moe::invalid("prompt: expected --chat TEXT, --prompt TEXT or text on standard input, got none");
    request.prompt = std::string(std::istreambuf_iterator<char>(std::cin), {});
  }
  request.stop = flags.stop;
  request.max_tokens = flags.max_tokens;
  request.seed = flags.seed;
  request.ignore_end = flags.ignore_end;
  if (flags.has_temperature) request.sampling.push_back({"temperature", flags.temperature});
  for (const auto& text : flags.parameters) {
    MOE_ASSIGN(SamplingParameter p, parse_parameter(text));
    request.sampling.push_back(std::move(p));
  }
  return request;
}

const char* reason_name(FinishReason reason) {
  constexpr const char* kNames[] = {"stop", "length", "cancelled", "failed"};
  return kNames[static_cast<size_t>(reason)];
}

void print_json(const Session& session, const Generation& g, const DecodeSpeed& speed, double bandwidth) {
  std::vector<int32_t> ids;
  for (const auto& t : g.tokens) ids.push_back(t.id);
  const nlohmann::json doc = {{"text", g.text},
                              {"ids", ids},
                              {"finish_reason", reason_name(g.end.reason)},
                              {"prompt_tokens", g.end.usage.n_prompt},
                              {"generated_tokens", g.end.usage.n_generated},
                              {"load_seconds", session.load_seconds},
                              {"prefill_seconds", g.end.usage.prefill_s},
                              {"decode_seconds", g.end.usage.decode_s},
                              {"tokens_per_second", speed.tokens_per_s},
                              {"gb_per_second", speed.bytes_per_s / 1e9},
                              {"bandwidth_gb_per_second", bandwidth > 0 ? nlohmann::json(bandwidth / 1e9) : nlohmann::json()},
                              {"share_of_bandwidth", bandwidth > 0 ? nlohmann::json(speed.share) : nlohmann::json()},
                              {"expert_tokens", session.engine->stats().expert_tokens}};
  fmt::print("{}\n", doc.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_summary(const Session& session, const Generation& g, const DecodeSpeed& speed, double bandwidth) {
  const auto& u = g.end.usage;
  fmt::print(stderr, "\n{} + {} tokens, first after {:.0f} ms", u.n_prompt, u.n_generated, (u.queue_s + u.prefill_s) * 1e3);
  if (speed.tokens_per_s > 0) {
    fmt::print(stderr, "; {:.0f} tokens/s, {:.1f} GB/s of weights", speed.tokens_per_s, speed.bytes_per_s / 1e9);
    if (bandwidth > 0) fmt::print(stderr, " = {:.0f} % of the {:.1f} GB/s that memory reads here", speed.share * 100, bandwidth / 1e9);
  }
  fmt::print(stderr, "\n{}", heat_map(heat_rows(*session.model, session.engine->stats().expert_tokens), isatty(2) == 1));
}

void run(const RunFlags& flags) {
  watch_signals();
  SessionNeeds needs;
  needs.defaults = [](Settings& s) {
    s.engine.batch_size = 1;  // one answer: the cache holds one context
    s.transports.clear();
  };
  const TextRequest request = value_or_fail(request_of(flags));
  Session session = value_or_fail(open_session(flags.common, needs));
  const bool json = flags.common.json;
  const auto show = [&](const TextEvent& event) {
    if (json) return;
    std::fwrite(event.text.data(), 1, event.text.size(), stdout);
    std::fflush(stdout);
  };
  const Generation g = value_or_fail(generate(*session.engine, *session.text, request, show, interrupted));
  if (!json) fmt::print("\n");
  if (g.end.reason == FinishReason::kFailed) fail(g.end.error.value_or(moe::internal("the request failed")));
  if (flags.common.quiet && !json) return;
  constexpr uint64_t kProbeBytes = uint64_t{512} << 20;  // beside the weights: an answer should not need a GiB more
  const int64_t n_decoded = g.end.usage.n_generated - 1;  // the first token comes out of the prefill
  const bool compares = n_decoded > 0 && !interrupted();
  const double bandwidth = compares ? measure_weights_bandwidth(*session.host, *session.model, 0.05, kProbeBytes) : 0;
  const DecodeSpeed speed = decode_speed(*session.model, n_decoded, g.end.usage.decode_s, bandwidth);
  if (json) {
    print_json(session, g, speed, bandwidth);
  } else {
    print_summary(session, g, speed, bandwidth);
  }
}

}  // namespace

void add_run(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("run", "Answer one prompt, streaming the text");
  add_common_flags(*command, flags->common);
  command->add_option("--chat", flags->chat, "a user's message, in the model's own chat format")->type_name("TEXT");
  command->add_option("--prompt", flags->prompt, "raw text to go on with (without either: standard input)")->type_name("TEXT");
  command->add_option("--prompt-ids", flags->prompt_ids, "token ids to go on from, as a JSON array: --prompt-ids=[1,2,3]")->type_name("IDS");
  command->add_option("--max-tokens", flags->max_tokens, "stop after so many")->type_name("N");
  CLI::Option* temperature = command->add_option("--temperature", flags->temperature, "0: always the likeliest token")->type_name("T");
  command->add_option("--seed", flags->seed, "same seed, same text")->type_name("N");
  command->add_option("--param", flags->parameters, "any sampling parameter of the chain: --param top_k=40")->type_name("NAME=VALUE")->allow_extra_args(false);
  command->add_flag("--ignore-end", flags->ignore_end, "go on through the model's end-of-text token (needs --max-tokens to end early)");
  command->add_option("--stop", flags->stop, "end before this text")->type_name("TEXT")->allow_extra_args(false);
  command->callback([flags, temperature] {
    flags->has_temperature = temperature->count() > 0;
    run(*flags);
  });
}

}  // namespace patchbay
