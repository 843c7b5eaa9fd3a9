#include "openai_request.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>

#include "fields.hpp"

namespace httpd {

namespace v1 = patchbay::v1;

namespace {

constexpr int64_t kMostTokens = 1LL << 40;  // the service cuts it to the context
constexpr int64_t kMostLogprobs = 128;
constexpr double kLargest = 1e9;

// Of OpenAI's API, without a meaning here.
constexpr const char* kIgnored[] = {"user",
                                    "metadata",
                                    "store",
                                    "service_tier",
                                    "prompt_cache_key",
                                    "parallel_tool_calls",
                                    "safety_identifier",
                                    "verbosity",
                                    "prompt_cache_retention"};

struct Neutral {
  const char* name;
  double value;  // has no effect
};
constexpr Neutral kSampling[] = {{"temperature", 1}, {"top_p", 1}, {"frequency_penalty", 0}, {"presence_penalty", 0}};

bool knows(const v1::Info& info, const std::string& name) {
  return std::find(info.sampling().begin(), info.sampling().end(), name) != info.sampling().end();
}

uint64_t random_seed() {
  static thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// What stands for itself in a request but has one meaning here: other values are refused, not ignored.
moe::Status check_unsupported(Fields& fields) {
  const auto only = [&](const char* key, const Json& neutral, const char* expected) -> moe::Status {
    const Json* value = fields.take(key);
    if (value == nullptr || *value == neutral) return {};
    return wrong(key, expected, *value);
  };
  MOE_TRY(only("tools", Json::array(), "none: this server calls no tools"));
  MOE_TRY(only("tool_choice", "none", "\"none\": this server calls no tools"));
  MOE_TRY(only("functions", Json::array(), "none: this server calls no functions"));
  MOE_TRY(only("function_call", "none", "\"none\": this server calls no functions"));
  MOE_TRY(only("modalities", Json::array({"text"}), "[\"text\"]"));
  MOE_TRY(only("audio", nullptr, "none"));
  MOE_TRY(only("prediction", nullptr, "none"));
  MOE_TRY(only("web_search_options", nullptr, "none"));
  MOE_TRY(only("echo", false, "false"));
  MOE_TRY(only("suffix", "", "none"));
  return {};
}

moe::Status check_format(Fields& fields) {
  const Json* format = fields.take("response_format");
  if (format == nullptr) return {};
  const Json type = format->is_object() ? format->value("type", Json()) : Json();
  if (type == "text") return {};
  return wrong("response_format",
               "{\"type\": \"text\"}: no sampler of this server's chain keeps to a grammar or to JSON", type);
}

moe::Status read_stop(Fields& fields, v1::Generate& out) {
  const Json* stop = fields.take("stop");
  if (stop == nullptr) return {};
  if (stop->is_string()) {
    out.add_stop(stop->get<std::string>());
    return {};
  }
  if (!stop->is_array()) return wrong("stop", "a string or a list of strings", *stop);
  for (const Json& s : *stop) {
    if (!s.is_string()) return wrong("stop", "strings", s);
    out.add_stop(s.get<std::string>());
  }
  return {};
}

moe::Status read_logit_bias(Fields& fields, v1::Generate& out) {
  const Json* bias = fields.take("logit_bias");
  if (bias == nullptr) return {};
  if (!bias->is_object()) return wrong("logit_bias", "an object of token ids and biases", *bias);
  std::string list;
  for (const auto& [id, value] : bias->items()) {
    if (!value.is_number()) return wrong("logit_bias." + id, "a number", value);
    list += (list.empty() ? "" : ",") + id + ":" + value.dump();
  }
  if (!list.empty()) (*out.mutable_sampling())["logit_bias"].set_text(list);
  return {};
}

moe::Result<v1::Value> read_value(const std::string& field, const Json& value) {
  v1::Value out;
  if (value.is_boolean()) {
    out.set_boolean(value.get<bool>());
  } else if (value.is_number_integer()) {
    out.set_integer(value.get<int64_t>());
  } else if (value.is_number()) {
    out.set_number(value.get<double>());
  } else if (value.is_string()) {
    out.set_text(value.get<std::string>());
  } else {
    return wrong(field, "true, false, a number or a string (it is no field of this API)", value);
  }
  return out;
}

moe::Status read_sampling(Fields& fields, const v1::Info& info, v1::Generate& out) {
  for (const auto& [name, neutral] : kSampling) {
    MOE_ASSIGN(const auto value, fields.number(name, -kLargest, kLargest));
    if (value && (*value != neutral || knows(info, name))) (*out.mutable_sampling())[name].set_number(*value);
  }
  return read_logit_bias(fields, out);
}

moe::Status read_limits(Fields& fields, bool chat, v1::Generate& out) {
  constexpr int64_t kCompletionTokens = 16;  // OpenAI's default
  MOE_ASSIGN(const auto old_name, fields.integer("max_tokens", 1, kMostTokens));
  MOE_ASSIGN(const auto new_name, fields.integer("max_completion_tokens", 1, kMostTokens));
  out.set_max_tokens(new_name ? *new_name : old_name ? *old_name : chat ? 0 : kCompletionTokens);
  MOE_ASSIGN(const auto priority, fields.integer("priority", INT32_MIN, INT32_MAX));
  out.set_priority(static_cast<int32_t>(priority.value_or(0)));
  MOE_ASSIGN(const auto deadline, fields.integer("deadline_ms", 1, int64_t{86400} * 1000));
  out.set_deadline_ms(deadline.value_or(0));
  MOE_ASSIGN(const auto ignore_end, fields.flag("ignore_eos"));
  out.set_ignore_end(ignore_end.value_or(false));
  return {};
}

moe::Status read_logprobs(Fields& fields, bool chat, v1::Generate& out) {
  if (!chat) {
    MOE_ASSIGN(const auto n, fields.integer("logprobs", 0, kMostLogprobs));
    if (n) out.set_logprobs(static_cast<int32_t>(*n));
    return {};
  }
  MOE_ASSIGN(const auto asked, fields.flag("logprobs"));
  MOE_ASSIGN(const auto top, fields.integer("top_logprobs", 0, kMostLogprobs));
  if (top && !asked.value_or(false)) return wrong("top_logprobs", "none without \"logprobs\": true", *top);
  if (asked.value_or(false)) out.set_logprobs(static_cast<int32_t>(top.value_or(0)));
  return {};
}

// A message's content: a text, or parts of which all must be text.
moe::Result<std::string> read_content(const Json& content, const std::string& field) {
  if (content.is_null()) return std::string();
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return wrong(field, "a string or a list of parts", content);
  std::string text;
  for (const Json& part : content) {
    const Json type = part.is_object() ? part.value("type", Json()) : Json();
    const Json value = part.is_object() ? part.value("text", Json()) : Json();
    if (type != "text" || !value.is_string()) return wrong(field, "parts of type \"text\" only", type);
    text += value.get<std::string>();
  }
  return text;
}

moe::Status read_messages(Fields& fields, v1::Chat& out) {
  const Json* messages = fields.take("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return wrong("messages", "a list of at least one message", messages == nullptr ? Json() : *messages);
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    const std::string field = "messages[" + std::to_string(i) + "]";
    const Json& message = (*messages)[i];
    if (!message.is_object()) return wrong(field, "an object", message);
    const Json role = message.value("role", Json());
    if (!role.is_string()) return wrong(field + ".role", "a string", role);
    v1::ChatMessage* to = out.add_messages();
    to->set_role(role == "developer" ? "system"
                                     : role.get<std::string>());  // OpenAI's new name; templates know the old
    MOE_ASSIGN(std::string content, read_content(message.value("content", Json()), field + ".content"));
    to->set_content(std::move(content));
  }
  return {};
}

moe::Status read_chat(Fields& fields, v1::Generate& out) {
  MOE_TRY(read_messages(fields, *out.mutable_chat()));
  MOE_ASSIGN(const auto effort, fields.text("reasoning_effort"));
  if (effort) (*out.mutable_chat()->mutable_variables())["reasoning_effort"].set_text(*effort);
  if (const Json* variables = fields.take("chat_template_kwargs")) {
    if (!variables->is_object()) return wrong("chat_template_kwargs", "an object", *variables);
    for (const auto& [name, value] : variables->items()) {
      MOE_ASSIGN((*out.mutable_chat()->mutable_variables())[name], read_value("chat_template_kwargs." + name, value));
    }
  }
  out.set_split_reasoning(true);
  return {};
}

moe::Status read_ids(const Json& ids, v1::Generate& out) {
  for (const Json& id : ids) {
    const bool right = id.is_number_integer() && id >= 0 && id <= std::numeric_limits<int32_t>::max();
    if (!right) return wrong("prompt", "token ids", id);
    out.mutable_ids()->add_ids(id.get<int32_t>());
  }
  return {};
}

// A text, token ids, or a list of texts or of lists of ids: one request for each.
moe::Result<std::vector<v1::Generate>> read_prompts(Fields& fields, const v1::Generate& common) {
  const Json* prompt = fields.take("prompt");
  if (prompt == nullptr) return wrong("prompt", "a string, token ids, or a list of these", Json());
  const bool one = prompt->is_string() || (prompt->is_array() && !prompt->empty() && prompt->front().is_number());
  const Json prompts = one ? Json::array({*prompt}) : *prompt;
  if (!prompts.is_array() || prompts.empty() || prompts.size() > kMostChoices) {
    return wrong("prompt", "a string, token ids, or a list of 1 to " + std::to_string(kMostChoices) + " of these",
                 prompts);
  }
  std::vector<v1::Generate> all;
  for (const Json& p : prompts) {
    v1::Generate& g = all.emplace_back(common);
    if (p.is_string()) {
      g.set_text(p.get<std::string>());
    } else if (p.is_array() && !p.empty()) {
      MOE_TRY(read_ids(p, g));
    } else {
      return wrong("prompt", "strings or token ids", p);
    }
  }
  return all;
}

moe::Status check_model(Fields& fields, const v1::Info& info) {
  MOE_ASSIGN(const auto model, fields.text("model"));
  if (!model || *model == info.model()) return {};
  return moe::not_found("model: expected \"" + info.model() + "\", got " + dump(*model));
}

// A scalar that this API does not have is a parameter of the sampler chain.
moe::Status read_rest(const Json& body, const Fields& fields, v1::Generate& out) {
  for (const std::string& key : fields.left()) {
    MOE_ASSIGN((*out.mutable_sampling())[key], read_value(key, body.at(key)));
  }
  return {};
}

moe::Status read_streaming(Fields& fields, CompletionRequest& request) {
  MOE_ASSIGN(const auto stream, fields.flag("stream"));
  request.stream = stream.value_or(false);
  const Json* options = fields.take("stream_options");
  if (options == nullptr) return {};
  if (!options->is_object()) return wrong("stream_options", "an object", *options);
  if (!request.stream) return wrong("stream_options", "none without \"stream\": true", *options);
  Fields inner(*options, "stream_options");
  MOE_ASSIGN(const auto usage, inner.flag("include_usage"));
  request.include_usage = usage.value_or(false);
  return {};
}

struct Counts {
  size_t n_per_prompt = 1;
  std::optional<int64_t> seed;
};

moe::Result<Counts> read_counts(Fields& fields) {
  MOE_ASSIGN(const auto n, fields.integer("n", 1, kMostChoices));
  MOE_ASSIGN(const auto best_of, fields.integer("best_of", 1, kMostChoices));
  if (best_of && *best_of != n.value_or(1)) return wrong("best_of", "the same as n", *best_of);
  Counts counts{static_cast<size_t>(n.value_or(1)), {}};
  MOE_ASSIGN(counts.seed, fields.integer("seed", INT64_MIN, INT64_MAX));
  return counts;
}

// n of each prompt, which differ by their seeds: the first is what n = 1 gives.
moe::Status add_choices(const std::vector<v1::Generate>& prompts, const Counts& counts, CompletionRequest& request) {
  const size_t n = prompts.size() * counts.n_per_prompt;
  if (n > kMostChoices) return wrong("n", "at most " + std::to_string(kMostChoices) + " choices in all", n);
  for (const v1::Generate& prompt : prompts) {
    const uint64_t first = counts.seed ? static_cast<uint64_t>(*counts.seed) : random_seed();
    for (size_t i = 0; i < counts.n_per_prompt; ++i) request.choices.emplace_back(prompt).set_seed(first + i);
  }
  return {};
}

}  // namespace

moe::Result<CompletionRequest> read_completion(const Json& body, bool chat, const v1::Info& info) {
  if (!body.is_object()) return wrong("body", "an object", body);
  Fields fields(body, "");
  CompletionRequest request;
  request.chat = chat;
  v1::Generate common;
  MOE_TRY(check_model(fields, info));
  MOE_TRY(check_unsupported(fields));
  MOE_TRY(check_format(fields));
  MOE_TRY(read_streaming(fields, request));
  MOE_TRY(read_limits(fields, chat, common));
  MOE_TRY(read_logprobs(fields, chat, common));
  MOE_TRY(read_stop(fields, common));
  MOE_TRY(read_sampling(fields, info, common));
  request.logprobs = common.has_logprobs();
  MOE_ASSIGN(const Counts counts, read_counts(fields));
  if (chat) {
    MOE_TRY(read_chat(fields, common));
  } else {
    fields.take("prompt");
  }
  for (const char* key : kIgnored) fields.take(key);
  MOE_TRY(read_rest(body, fields, common));
  std::vector<v1::Generate> prompts{common};
  if (!chat) {
    MOE_ASSIGN(prompts, read_prompts(fields, common));
  }
  MOE_TRY(add_choices(prompts, counts, request));
  return request;
}

}  // namespace httpd
