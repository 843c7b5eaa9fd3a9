#include "core/service/wire.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/model/tokenizer/unicode.hpp"

namespace patchbay::wire {

namespace {

constexpr int32_t kMaxLogprobs = 128;
constexpr int kMaxEntries = 256;  // of a map
constexpr int64_t kMaxDeadlineMs = int64_t{365} * 24 * 3600 * 1000;

moe::Error out_of_range(std::string_view field, int64_t min, int64_t max, int64_t got) {
  return moe::invalid(fmt::format("{}: expected {} to {}, got {}", field, min, max, got));
}

moe::Status check_size(std::string_view field, size_t n) {
  if (n > kMaxEntries)
    return moe::invalid(fmt::format("{}: expected at most {} entries, got {}", field, kMaxEntries, n));
  return {};
}

moe::Result<SamplingParameter> read_parameter(const std::string& name, const v1::Value& value) {
  switch (value.value_case()) {
    case v1::Value::kBoolean:
      return SamplingParameter{name, value.boolean()};
    case v1::Value::kInteger:
      return SamplingParameter{name, value.integer()};
    case v1::Value::kText:
      return SamplingParameter{name, value.text()};
    case v1::Value::kNumber:
      if (std::isfinite(value.number())) return SamplingParameter{name, value.number()};
      return moe::invalid(fmt::format("sampling.{}: expected a finite number, got {}", name, value.number()));
    default:
      return moe::invalid(fmt::format("sampling.{}: expected a value, got none", name));
  }
}

moe::Result<nlohmann::ordered_json> read_variable(const std::string& name, const v1::Value& value) {
  switch (value.value_case()) {
    case v1::Value::kBoolean:
      return nlohmann::ordered_json(value.boolean());
    case v1::Value::kInteger:
      return nlohmann::ordered_json(value.integer());
    case v1::Value::kText:
      return nlohmann::ordered_json(value.text());
    case v1::Value::kNumber:
      return nlohmann::ordered_json(value.number());
    default:
      return moe::invalid(fmt::format("chat.variables.{}: expected a value, got none", name));
  }
}

moe::Result<ChatPrompt> read_chat(const v1::Chat& chat) {
  if (chat.messages().empty()) return moe::invalid("chat.messages: expected at least one, got none");
  MOE_TRY(check_size("chat.variables", chat.variables().size()));
  ChatPrompt prompt{nlohmann::ordered_json::array(), nlohmann::ordered_json::object()};
  for (const auto& m : chat.messages()) prompt.messages.push_back({{"role", m.role()}, {"content", m.content()}});
  for (const auto& [name, value] : chat.variables()) {
    MOE_ASSIGN(prompt.variables[name], read_variable(name, value));
  }
  return prompt;
}

moe::Result<Prompt> read_prompt(const v1::Generate& message) {
  switch (message.prompt_case()) {
    case v1::Generate::kText:
      return Prompt(message.text());
    case v1::Generate::kIds:
      return Prompt(std::vector<int32_t>(message.ids().ids().begin(), message.ids().ids().end()));
    case v1::Generate::kChat: {
      MOE_ASSIGN(ChatPrompt chat, read_chat(message.chat()));
      return Prompt(std::move(chat));
    }
    default:
      return moe::invalid("generate.prompt: expected text, chat or ids, got none of them");
  }
}

v1::FinishReason finish_reason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kFailed:
      break;
  }
  return v1::FINISH_REASON_FAILED;
}

void write_logprobs(const TokenOut& token, const Tokenizer* tokenizer, v1::TokenLogprobs* out) {
  const auto bytes = [&](int32_t id) {
    return tokenizer == nullptr ? std::string() : std::string(tokenizer->token_bytes(id));
  };
  out->set_logprob(token.logprob);
  out->set_token(bytes(token.id));
  for (const TokenLogprob& t : token.top) {
    v1::TopToken* top = out->add_top();
    top->set_id(t.id);
    top->set_logprob(t.logprob);
    top->set_token(bytes(t.id));
  }
}

}  // namespace

moe::Result<TextRequest> read_generate(const v1::Generate& message, std::chrono::steady_clock::time_point now) {
  TextRequest request;
  MOE_ASSIGN(request.prompt, read_prompt(message));
  if (message.max_tokens() < 0) {
    return moe::invalid(fmt::format("generate.max_tokens: expected 0 or more, got {}", message.max_tokens()));
  }
  if (message.deadline_ms() < 0 || message.deadline_ms() > kMaxDeadlineMs) {
    return out_of_range("generate.deadline_ms", 0, kMaxDeadlineMs, message.deadline_ms());
  }
  if (message.has_logprobs() && (message.logprobs() < 0 || message.logprobs() > kMaxLogprobs)) {
    return out_of_range("generate.logprobs", 0, kMaxLogprobs, message.logprobs());
  }
  MOE_TRY(check_size("generate.sampling", message.sampling().size()));
  for (const auto& [name, value] : message.sampling()) {
    MOE_ASSIGN(SamplingParameter parameter, read_parameter(name, value));
    request.sampling.push_back(std::move(parameter));
  }
  // The map's order is arbitrary; of several wrong names, the same one is always complained of.
  std::sort(request.sampling.begin(), request.sampling.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  request.stop.assign(message.stop().begin(), message.stop().end());
  request.ignore_end = message.ignore_end();
  request.split_reasoning = message.split_reasoning();
  request.max_tokens = message.max_tokens();
  request.seed = message.seed();
  request.top_logprobs = message.has_logprobs() ? message.logprobs() : -1;
  request.trace_routing = message.trace_routing();
  request.priority = message.priority();
  if (message.deadline_ms() > 0) request.deadline = now + std::chrono::milliseconds(message.deadline_ms());
  return request;
}

void write_tokens(const TextEvent& event, const TextRequest& asked, const Tokenizer* tokenizer, v1::Tokens* out) {
  out->set_index(event.index);
  out->set_text(event.text.data(), event.text.size());
  out->set_reasoning(event.reasoning.data(), event.reasoning.size());
  for (const TokenOut& token : event.tokens) {
    out->add_ids(token.id);
    if (asked.top_logprobs >= 0) write_logprobs(token, tokenizer, out->add_logprobs());
    if (asked.trace_routing) out->add_experts()->mutable_ids()->Add(token.experts.begin(), token.experts.end());
  }
}

void write_end(const TextEnd& end, v1::End* out) {
  out->set_reason(finish_reason(end.reason));
  out->set_stop(end.stop);
  out->mutable_usage()->set_n_prompt(end.usage.n_prompt);
  out->mutable_usage()->set_n_generated(end.usage.n_generated);
  out->mutable_usage()->set_n_reused(end.usage.n_reused);
  out->mutable_usage()->set_n_preempted(end.usage.n_preempted);
  out->mutable_usage()->set_n_reasoning(end.n_reasoning);
  out->mutable_timings()->set_queue_s(end.usage.queue_s);
  out->mutable_timings()->set_prefill_s(end.usage.prefill_s);
  out->mutable_timings()->set_decode_s(end.usage.decode_s);
  if (end.error) write_status(*end.error, out->mutable_error());
}

void write_status(const moe::Error& error, v1::Status* out) {
  out->set_code(v1::Code_IsValid(error.code) && error.code != MOE_OK ? static_cast<v1::Code>(error.code)
                                                                     : v1::CODE_UNKNOWN);
  out->set_message(unicode::repaired(error.message));
}

void write_metric(const MetricSample& sample, v1::Metrics* out) {
  v1::Metric* m = out->add_metrics();
  m->set_name(sample.name);
  m->set_value(sample.value);
  m->set_counter(sample.counter);
  m->set_histogram(sample.histogram);
  for (const auto& [name, value] : sample.labels) {
    v1::Label* label = m->add_labels();
    label->set_name(name);
    label->set_value(value);
  }
}

}  // namespace patchbay::wire
