// Between the wire's messages (schemas/patchbay.proto) and the service's own types.
#pragma once

#include <string_view>

#include "core/service/metrics.hpp"
#include "core/service/text_generator.hpp"
#include "patchbay.pb.h"

namespace patchbay::wire {

// A request as it came. Deadlines count from `now`. MOE_INVALID_ARGUMENT names the field.
moe::Result<TextRequest> read_generate(const v1::Generate& message, std::chrono::steady_clock::time_point now);

// Fills an event. `tokenizer` may be null; it gives the bytes of tokens beside their log-probabilities.
void write_tokens(const TextEvent& event, const TextRequest& asked, const Tokenizer* tokenizer, v1::Tokens* out);
void write_end(const TextEnd& end, v1::End* out);
// The message is repaired where it is not UTF-8, such as one that was cut at a boundary's buffer.
void write_status(const moe::Error& error, v1::Status* out);
void write_metric(const MetricSample& sample, v1::Metrics* out);

}  // namespace patchbay::wire
