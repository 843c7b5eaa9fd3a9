// Token ids through a model, with the logits of every position.
#pragma once

#include <functional>
#include <span>

#include "core/engine/model.hpp"

namespace patchbay {

// Called chunk by chunk, as each has gone through the model: its logits [n, n_vocab] of the positions from `first` on.
using ChunkListener = std::function<moe::Status(int64_t first, std::span<const float> logits)>;

// One sequence, in the first pages of the cache: nothing else may be in there. The logits are the same bits for any
// size of chunk. Errors: it is longer than the context or the cache, and those of the model and the listener.
moe::Status run_sequence(Model& model, std::span<const int32_t> ids, const ChunkListener& listener);

}  // namespace patchbay
