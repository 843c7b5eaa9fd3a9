// Norms, rotary embeddings and stores of one token after each other in one launch: what lies between a projection and
// attention.
#pragma once

#include "kernels/rows.hpp"

namespace moe::cuda {

struct ChainStep {
  enum Kind : int32_t { kNorm, kRope, kStore } kind;
  int32_t part;  // launch_chain's: steps of different parts touch different memory
  union {
    NormParams norm;
    RopeParams rope;
    CacheStoreParams store;
  };
};

inline constexpr int kChainSteps = 8;
// Pairs of all rotary embeddings together.
inline constexpr int64_t kChainPairs = 2048;

struct ChainParams {
  ChainStep steps[kChainSteps];
  int32_t n_steps;
  int64_t n;  // tokens
  bool pdl;
};

// A block for a token and each part of the chain that does not depend on the others. Positions and the
// cache's rows are read before what came before on the stream has ended: they are a step's input.
cudaError_t launch_chain(const ChainParams& p, cudaStream_t stream);

}  // namespace moe::cuda
