// The attention part of a layer: x += attention(norm(x)), grouped-query or latent.
#pragma once

#include <memory>

#include "core/engine/step.hpp"
#include "core/engine/weights.hpp"

namespace patchbay {

// What every part of a layer is built with.
struct BuildContext {
  WeightLoader& weights;
  const ModelSpec& spec;
  const StepLimits& limits;
  Precision precision;
  int32_t cache_dtype;  // MOE_F32 | MOE_F16 | MOE_BF16
  int64_t layer;
};

// A norm of the model's kind, with its weight on a device.
class Norm {
 public:
  // `map`/`role`: its weight; `shape` as the operation sees x.
  moe::Status build(StepDevice& device, BuildContext& ctx, const TensorMap& map, const std::string& role, int64_t dim,
                    const moe_tensor& x_shape);
  moe::Status run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const;

 private:
  Buffer weight_, bias_;
  moe_norm_args args_{};
  moe::Op op_;
};

// A product with a prepared weight.
class Linear {
 public:
  // x_shape and out_shape with as many rows as will come; `bias` may be empty.
  moe::Status build(StepDevice& device, BuildContext& ctx, const MatrixSet& set, const std::vector<float>& bias, const moe_tensor& x_shape,
                    const moe_tensor& out_shape, moe_activation_type activation, const char* encoding, bool accumulate = false,
                    float scale = 1.0F);
  moe::Status run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const;
  [[nodiscard]] uint64_t weight_bytes() const { return weight_.bytes(); }

 private:
  PreparedWeight weight_;
  Buffer bias_;
  moe_matmul_args args_{};
  moe::Op op_;
};

class AttentionPart {
 public:
  virtual ~AttentionPart() = default;
  static moe::Result<std::unique_ptr<AttentionPart>> build(StepDevice& device, BuildContext& ctx);

  // x += residual_scale * attention(norm(x)); uses the device's h.
  virtual moe::Status forward(StepDevice& device) = 0;
  [[nodiscard]] virtual uint64_t weight_bytes() const = 0;
  // Bytes that one token takes in the paged cache.
  [[nodiscard]] virtual uint64_t cache_bytes_per_token() const = 0;
};

// Element size of a cache dtype.
int64_t cache_element_bytes(int32_t dtype);

}  // namespace patchbay
