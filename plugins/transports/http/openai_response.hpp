// From the wire's events to the JSON of /v1/completions and /v1/chat/completions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.hpp"
#include "openai_request.hpp"
#include "patchbay.pb.h"

namespace httpd {

// What the events of one choice have told so far.
struct Choice {
  std::string text;  // these three stay empty where the response is a stream
  std::string reasoning;
  Json logprobs;
  Json new_logprobs;   // of the last event
  size_t n_chars = 0;  // of the tokens so far, for text_offset
  bool begun = false;  // a first event of the stream went out
  bool ended = false;
  patchbay::v1::End end;
};

// Makes the JSON of one request. One thread at a time.
class OpenAiWriter {
 public:
  OpenAiWriter(const CompletionRequest& request, std::string model);

  // Takes an event into the choice.
  void add(const patchbay::v1::Tokens& tokens, Choice& choice) const;
  // The whole, when all have ended.
  [[nodiscard]] Json whole(const std::vector<Choice>& choices) const;
  // The events of a stream: text that has come, the end of a choice, and the usage of all.
  [[nodiscard]] Json delta(size_t index, const patchbay::v1::Tokens& tokens, Choice& choice) const;
  [[nodiscard]] Json finish(size_t index, Choice& choice) const;
  [[nodiscard]] Json usage(const std::vector<Choice>& choices) const;

 private:
  [[nodiscard]] Json head(const char* object) const;
  [[nodiscard]] Json chunk(Json choices) const;
  [[nodiscard]] Json chat_logprobs(const patchbay::v1::Tokens& tokens) const;
  [[nodiscard]] Json text_logprobs(const patchbay::v1::Tokens& tokens, Choice& choice) const;
  [[nodiscard]] Json usage_of(const std::vector<Choice>& choices) const;

  const bool chat_;
  const bool stream_;
  const bool logprobs_;
  const bool include_usage_;
  const std::string model_;
  const std::string id_;
  const int64_t created_;
};

}  // namespace httpd
