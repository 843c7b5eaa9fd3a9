#include "tools/conformance/ops/op_cases.hpp"

namespace patchbay::conformance {

std::vector<OpCase> all_cases(const std::string& id, uint64_t seeds) {
  std::vector<OpCase> out;
  const auto is = [&](const char* op) { return id.empty() || id == op; };
  constexpr int32_t kActivations[] = {MOE_F32, MOE_BF16, MOE_F16, MOE_I8};
  for (uint64_t s = 1; s <= seeds; ++s) {
    for (uint64_t t = 0; t < 4; ++t) {  // few combinations of their own: more seeds
      const uint64_t seed = 4 * s + t;
      if (is(MOE_OP_EMBED)) out.push_back(embed_case(seed));
      if (is(MOE_OP_NORM)) out.push_back(norm_case(seed));
      if (is(MOE_OP_ROPE)) out.push_back(rope_case(seed));
      if (is(MOE_OP_GATHER)) out.push_back(gather_case(seed));
      if (is(MOE_OP_COMBINE)) out.push_back(combine_case(seed));
      if (is(MOE_OP_IDENTITY)) out.push_back(identity_case(seed));
      if (is(MOE_OP_ADD)) out.push_back(add_case(seed));
      if (is(MOE_OP_CLAMP)) out.push_back(clamp_case(seed));
      if (is(MOE_OP_ARGMAX)) out.push_back(argmax_case(seed));
    }
    for (const int32_t activation : kActivations) {
      if (is(MOE_OP_MATMUL)) out.push_back(matmul_case(2 * s, activation));
      if (is(MOE_OP_MATMUL)) out.push_back(matmul_case(2 * s + 1, activation));
      if (is(MOE_OP_GROUPED_MATMUL)) out.push_back(grouped_matmul_case(s, activation));
    }
    for (const int32_t dtype : {MOE_F32, MOE_F16, MOE_BF16}) {
      if (is(MOE_OP_CACHE_STORE)) out.push_back(cache_store_case(s, dtype));
      if (is(MOE_OP_ATTENTION)) out.push_back(attention_case(2 * s, dtype, false));
      if (is(MOE_OP_ATTENTION)) out.push_back(attention_case(2 * s + 1, dtype, true));
    }
    for (int32_t kind = MOE_ACT_SILU; kind <= MOE_ACT_SWIGLU_CLAMPED; ++kind) {
      if (is(MOE_OP_ACTIVATION)) out.push_back(activation_case(s, kind));
      for (const int32_t activation : kActivations) {
        if (is(MOE_OP_FFN)) out.push_back(ffn_case(4 * s + static_cast<uint64_t>(activation), kind, activation));
      }
    }
    for (int32_t score = MOE_SCORE_SOFTMAX; is(MOE_OP_ROUTE) && score <= MOE_SCORE_GROUP_GATE; ++score) {
      for (int32_t groups = MOE_GROUP_NONE; groups <= MOE_GROUP_SUM; ++groups) {
        if (groups == MOE_GROUP_GATE_SCORE && score != MOE_SCORE_GROUP_GATE) continue;
        if (groups != MOE_GROUP_NONE && score == MOE_SCORE_SPARSE_MIXER) continue;
        for (int32_t dynamic = MOE_DYNAMIC_NONE; dynamic <= MOE_DYNAMIC_TOP_P; ++dynamic) {
          out.push_back(route_case(s, score, groups, dynamic));
        }
      }
    }
  }
  return out;
}

}  // namespace patchbay::conformance
