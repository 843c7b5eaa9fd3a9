// Random cases of every operation of moe/abi/ops.h. A case is a function of its seed, and of the enum values that it is
// given.
#pragma once

#include <string>
#include <vector>

#include "tools/conformance/ops/op_case.hpp"

namespace patchbay::conformance {

OpCase embed_case(uint64_t seed);
OpCase norm_case(uint64_t seed);
OpCase matmul_case(uint64_t seed, int32_t activation);
OpCase grouped_matmul_case(uint64_t seed, int32_t activation);
OpCase gather_case(uint64_t seed);
OpCase combine_case(uint64_t seed);
OpCase identity_case(uint64_t seed);
OpCase add_case(uint64_t seed);
OpCase clamp_case(uint64_t seed);
OpCase argmax_case(uint64_t seed);
OpCase activation_case(uint64_t seed, int32_t kind);
OpCase rope_case(uint64_t seed);
OpCase cache_store_case(uint64_t seed, int32_t dtype);
// `latent`: k and v are views of the same rows, v a prefix of k, one head.
OpCase attention_case(uint64_t seed, int32_t dtype, bool latent);
// The same of a given shape.
struct AttentionShape {
  int64_t n_sequences, page_size, max_pages, n, kv_heads, heads, v_dim, k_dim;
};
OpCase attention_case_of(CaseBuilder<moe_attention_args>& b, const AttentionShape& shape, int32_t dtype, bool latent);
OpCase ffn_case(uint64_t seed, int32_t kind, int32_t activation);
OpCase route_case(uint64_t seed, int32_t score, int32_t group_score, int32_t dynamic);

// The cases of operation `id` (all where empty), `seeds` of each combination of enum values.
std::vector<OpCase> all_cases(const std::string& id, uint64_t seeds);

// Rows that were compared in full, and rows whose decision was open. A test looks that the latter are few.
struct RouteTally {
  int64_t decided = 0;
  int64_t open = 0;
};
extern RouteTally g_route_tally;

}  // namespace patchbay::conformance
