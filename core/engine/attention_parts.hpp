// The pieces that both kinds of attention are made of: rotary embedding, slots of the paged cache, attention over them,
// the output.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/attention.hpp"

namespace patchbay {

// The rotary embedding of a layer, and the table that it needs.
class Rope {
 public:
  // Nothing is built, and there is no op(), where no dimension turns. `out_shape` absent: in place.
  moe::Status build(StepDevice& device, const RopeSpec& spec, const moe_tensor& x_shape, const moe_tensor& out_shape);
  [[nodiscard]] moe_rope_args args(const StepDevice& device, const moe_tensor& x, const moe_tensor& out) const;
  [[nodiscard]] const moe_rope_args& largest() const { return args_; }
  [[nodiscard]] const moe::Op& op() const { return op_; }

 private:
  Buffer table_;
  moe_rope_args args_{};
  moe::Op op_;
};

// A slot of the paged cache: one row of `dim` elements a token, in as many heads. Where the backend knows
// MOE_CACHE_STORE_HEADS the rows of a head lie one after the other, else those of a token.
class CacheSlot {
 public:
  moe::Status build(StepDevice& device, BuildContext& ctx, int64_t dim, int64_t heads, const moe_tensor& x_shape);
  // Of storing x in the step's rows.
  [[nodiscard]] moe_cache_store_args args(const StepDevice& device, const moe_tensor& x) const;
  [[nodiscard]] const moe_cache_store_args& largest() const { return args_; }
  [[nodiscard]] const moe::Op& op() const { return op_; }
  // [n_rows, heads, dim]: the first `dim` elements of each head.
  [[nodiscard]] moe_tensor heads(int64_t dim) const;
  [[nodiscard]] uint64_t bytes_per_token() const { return static_cast<uint64_t>(dim_ * cache_element_bytes(dtype_)); }

 private:
  Buffer memory_;
  moe_cache_store_args args_{};
  moe::Op op_;
  int64_t dim_ = 0;
  int64_t heads_ = 1;
  int64_t n_rows_ = 0;
  int32_t dtype_ = MOE_F32;
  moe_device where_{};
};

class PagedAttention {
 public:
  moe::Status build(StepDevice& device, BuildContext& ctx, const AttentionSpec& spec, const moe_tensor& q_shape,
                    const moe_tensor& k, const moe_tensor& v, const moe_tensor& out_shape);
  [[nodiscard]] moe_attention_args args(const StepDevice& device, const moe_tensor& q, const moe_tensor& out) const;
  [[nodiscard]] const moe_attention_args& largest() const { return args_; }
  [[nodiscard]] const moe::Op& op() const { return op_; }

 private:
  Buffer sinks_;
  moe_attention_args args_{};
  moe::Op op_;
};

// Biases of several products that run as one, each by its role and length; zeros where one has none. Empty unless
// `wanted`; MOE_NOT_FOUND where they are wanted and none is in the checkpoint.
moe::Result<std::vector<float>> joined_bias(BuildContext& ctx, bool wanted,
                                            const std::vector<std::pair<std::string, int64_t>>& parts);

// The branch of the attention part, and its last product, which adds to the branch's target.
moe::Status build_branch(Branch& branch, StepDevice& device, BuildContext& ctx);
moe::Status build_output(Linear& o, StepDevice& device, BuildContext& ctx, const AttentionSpec& spec,
                         const Branch& branch);

// One layer's attention of each kind.
moe::Result<std::unique_ptr<AttentionPart>> build_grouped_query(StepDevice& device, BuildContext& ctx,
                                                                const AttentionSpec& spec);
moe::Result<std::unique_ptr<AttentionPart>> build_latent(StepDevice& device, BuildContext& ctx,
                                                         const AttentionSpec& spec);

}  // namespace patchbay
