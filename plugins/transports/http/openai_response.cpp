#include "openai_response.hpp"

#include <algorithm>
#include <ctime>
#include <random>

namespace httpd {

namespace v1 = patchbay::v1;

namespace {

std::string new_id(const char* prefix) {
  static thread_local std::random_device device;
  char text[40];
  std::snprintf(text, sizeof text, "%s-%08x%08x%08x", prefix, device(), device(), device());
  return text;
}

const char* finish_reason(const v1::End& end) { return end.reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop"; }

Json bytes_of(const std::string& token) {
  Json bytes = Json::array();
  for (const char c : token) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

size_t n_chars(const std::string& bytes) {
  return static_cast<size_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Appends each list of `more` to the list of the same name.
void extend(Json& all, const Json& more) {
  if (more.is_null()) return;
  if (all.is_null()) {
    all = more;
    return;
  }
  for (const auto& [key, values] : more.items()) {
    if (!values.is_array()) continue;
    for (const Json& v : values) all[key].push_back(v);
  }
}

}  // namespace

OpenAiWriter::OpenAiWriter(const CompletionRequest& request, std::string model)
    : chat_(request.chat),
      stream_(request.stream),
      logprobs_(request.logprobs),
      include_usage_(request.include_usage),
      model_(std::move(model)),
      id_(new_id(chat_ ? "chatcmpl" : "cmpl")),
      created_(std::time(nullptr)) {}

Json OpenAiWriter::chat_logprobs(const v1::Tokens& tokens) const {
  Json content = Json::array();
  for (const v1::TokenLogprobs& l : tokens.logprobs()) {
    Json top = Json::array();
    for (const v1::TopToken& t : l.top()) {
      top.push_back({{"token", t.token()}, {"logprob", t.logprob()}, {"bytes", bytes_of(t.token())}});
    }
    content.push_back(
        {{"token", l.token()}, {"logprob", l.logprob()}, {"bytes", bytes_of(l.token())}, {"top_logprobs", top}});
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json OpenAiWriter::text_logprobs(const v1::Tokens& tokens, Choice& choice) const {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  for (const v1::TokenLogprobs& l : tokens.logprobs()) {
    Json top = Json::object();
    for (const v1::TopToken& t : l.top()) top[t.token()] = t.logprob();
    out["tokens"].push_back(l.token());
    out["token_logprobs"].push_back(l.logprob());
    out["top_logprobs"].push_back(top);
    out["text_offset"].push_back(choice.n_chars);
    choice.n_chars += n_chars(l.token());
  }
  return out;
}

void OpenAiWriter::add(const v1::Tokens& tokens, Choice& choice) const {
  choice.new_logprobs = nullptr;
  if (logprobs_ && !tokens.logprobs().empty()) {
    choice.new_logprobs = chat_ ? chat_logprobs(tokens) : text_logprobs(tokens, choice);
  }
  if (stream_) return;
  choice.text += tokens.text();
  choice.reasoning += tokens.reasoning();
  extend(choice.logprobs, choice.new_logprobs);
}

Json OpenAiWriter::head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

Json OpenAiWriter::usage_of(const std::vector<Choice>& choices) const {
  int64_t prompt = 0;
  int64_t generated = 0;
  int64_t reasoning = 0;
  int64_t reused = 0;
  for (const Choice& c : choices) {
    prompt += c.end.usage().n_prompt();
    generated += c.end.usage().n_generated();
    reasoning += c.end.usage().n_reasoning();
    reused += c.end.usage().n_reused();
  }
  Json usage = {{"prompt_tokens", prompt}, {"completion_tokens", generated}, {"total_tokens", prompt + generated}};
  usage["prompt_tokens_details"] = {{"cached_tokens", reused}};
  if (chat_) usage["completion_tokens_details"] = {{"reasoning_tokens", reasoning}};
  return usage;
}

Json OpenAiWriter::whole(const std::vector<Choice>& choices) const {
  Json list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& c = choices[i];
    Json choice = {{"index", i}};
    if (chat_) {
      choice["message"] = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
      if (!c.reasoning.empty()) choice["message"]["reasoning_content"] = c.reasoning;
    } else {
      choice["text"] = c.text;
    }
    choice["logprobs"] = c.logprobs;
    choice["finish_reason"] = finish_reason(c.end);
    list.push_back(std::move(choice));
  }
  Json out = head(chat_ ? "chat.completion" : "text_completion");
  out["choices"] = std::move(list);
  out["usage"] = usage_of(choices);
  return out;
}

Json OpenAiWriter::chunk(Json choices) const {
  Json out = head(chat_ ? "chat.completion.chunk" : "text_completion");
  out["choices"] = std::move(choices);
  if (include_usage_) out["usage"] = nullptr;
  return out;
}

Json OpenAiWriter::delta(size_t index, const v1::Tokens& tokens, Choice& choice) const {
  Json one = {{"index", index}};
  if (chat_) {
    Json delta = Json::object();
    if (!std::exchange(choice.begun, true)) delta["role"] = "assistant";
    if (!tokens.reasoning().empty()) delta["reasoning_content"] = tokens.reasoning();
    if (!tokens.text().empty() || tokens.reasoning().empty()) delta["content"] = tokens.text();
    one["delta"] = std::move(delta);
  } else {
    one["text"] = tokens.text();
  }
  one["logprobs"] = choice.new_logprobs;
  one["finish_reason"] = nullptr;
  return chunk(Json::array({std::move(one)}));
}

Json OpenAiWriter::finish(size_t index, Choice& choice) const {
  Json one = {{"index", index}};
  if (chat_) {
    Json delta = Json::object();
    if (!std::exchange(choice.begun, true)) delta = {{"role", "assistant"}, {"content", ""}};
    one["delta"] = std::move(delta);
  } else {
    one["text"] = "";
  }
  one["logprobs"] = nullptr;
  one["finish_reason"] = finish_reason(choice.end);
  return chunk(Json::array({std::move(one)}));
}

Json OpenAiWriter::usage(const std::vector<Choice>& choices) const {
  Json out = chunk(Json::array());
  out["usage"] = usage_of(choices);
  return out;
}

}  // namespace httpd
