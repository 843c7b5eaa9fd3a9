// From the JSON of /v1/completions and /v1/chat/completions to requests of the wire.
#pragma once

#include <string>
#include <vector>

#include "json.hpp"
#include "patchbay.pb.h"

namespace httpd {

struct CompletionRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;  // a last event with the usage
  bool logprobs = false;
  std::vector<patchbay::v1::Generate> choices;  // by index: prompt by prompt, n of each
};

constexpr size_t kMostChoices = 128;

// MOE_INVALID_ARGUMENT names the field. Fields that are null count as absent. Scalars of names that OpenAI's API does
// not have are parameters of the sampler chain, and the service refuses those that no link has.
// `info` says which sampling parameters there are and the model's name (MOE_NOT_FOUND: another is asked for).
moe::Result<CompletionRequest> read_completion(const Json& body, bool chat, const patchbay::v1::Info& info);

}  // namespace httpd
