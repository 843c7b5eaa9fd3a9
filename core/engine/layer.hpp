// What the parts of a layer are made of: a norm, a product, and the branch that leaves the residual stream and comes
// back to it.
#pragma once

#include <array>
#include <optional>

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

// Where a norm differs from the model's others.
struct NormKind {
  std::optional<float> eps;
  bool has_weight = true;
};

// A norm of the model's kind, with its weight on a device.
class Norm {
 public:
  // `map`/`role`: its weight; `shape` as the operation sees x.
  moe::Status build(StepDevice& device, BuildContext& ctx, const TensorMap& map, const std::string& role, int64_t dim,
                    const moe_tensor& x_shape, const NormKind& kind = {});
  [[nodiscard]] moe_norm_args args(const moe_tensor& x, const moe_tensor& out) const;
  [[nodiscard]] const moe_norm_args& largest() const { return args_; }
  [[nodiscard]] const moe::Op& op() const { return op_; }
  moe::Status run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const;
  [[nodiscard]] bool present() const { return static_cast<bool>(op_); }

 private:
  Buffer weight_, bias_;
  moe_norm_args args_{};
  moe::Op op_;
};

// A product with a prepared weight.
class Linear {
 public:
  // x_shape and out_shape with as many rows as will come; `bias` may be empty.
  moe::Status build(StepDevice& device, BuildContext& ctx, const MatrixSet& set, const std::vector<float>& bias,
                    const moe_tensor& x_shape, const moe_tensor& out_shape, moe_activation_type activation,
                    const char* encoding, bool accumulate = false, float scale = 1.0F);
  [[nodiscard]] moe_matmul_args args(const moe_tensor& x, const moe_tensor& out) const;
  [[nodiscard]] const moe_matmul_args& largest() const { return args_; }
  [[nodiscard]] const moe::Op& op() const { return op_; }
  moe::Status run(StepDevice& device, const moe_tensor& x, const moe_tensor& out) const;
  // Other values for the bias that it was built with, from the next run on.
  moe::Status set_bias(StepDevice& device, std::span<const float> bias);
  [[nodiscard]] uint64_t weight_bytes() const { return weight_.bytes(); }

 private:
  PreparedWeight weight_;
  Buffer bias_;
  moe_matmul_args args_{};
  moe::Op op_;
};

// A product of normalised rows, as one operation where the backend has a faster way.
class NormedProduct {
 public:
  // `norm_is_read`: what the norm writes has other readers too. Both operations must have been found.
  moe::Status find(StepDevice& device, const Norm& norm, const moe::Op& product, const moe_matmul_args& largest,
                   bool norm_is_read);
  // normed = norm(x), args.out = product(normed).
  moe::Status run(StepDevice& device, const Norm& norm, const moe::Op& product, moe_matmul_args args,
                  const moe_tensor& x, const moe_tensor& normed) const;

 private:
  Fused fused_;
};

// The same with what follows it, a decision from the product (MOE_OP_ROUTE): only where the backend takes them as one.
class RoutedProduct {
 public:
  // Nobody else reads the product.
  moe::Status find(StepDevice& device, const Norm& norm, const moe::Op& product, const moe_matmul_args& largest,
                   const moe_route_op_args& route);
  [[nodiscard]] bool found() const { return fused_.found(); }
  // normed = norm(x), args.out = product(normed), and what `route` makes of it. After find() has found it.
  moe::Status run(StepDevice& device, const Norm& norm, const moe::Op& product, const moe_matmul_args& args,
                  const moe_tensor& x, const moe_tensor& normed, const moe_route_op_args& route) const;

 private:
  struct Calls {
    moe_norm_args norm;
    moe_matmul_args product;
    moe_route_op_args route;
  };
  [[nodiscard]] std::array<Fused::Part, 3> parts(const Norm& norm, const moe::Op& product, Calls& c) const;

  moe::Op route_;
  Fused fused_;
};

// x += residual_scale * after(f(before(x))), the frame of each part of a layer; either norm may be missing. Where there
// is no norm after f, f adds to x itself, scaled.
class Branch {
 public:
  // Roles of the norms' weights, "" for none.
  moe::Status build(StepDevice& device, BuildContext& ctx, const std::string& before, const std::string& after);

  // After build(), if f begins with a product: enter_product() will be called with it. `input_is_read`: f reads its
  // input elsewhere too.
  moe::Status find_product(StepDevice& device, const moe::Op& product, const moe_matmul_args& largest,
                           bool input_is_read);
  // The same where a decision from that product follows (MOE_OP_ROUTE). True: the backend takes them as one, and
  // enter_route() may be called.
  moe::Result<bool> find_route(StepDevice& device, const moe::Op& product, const moe_matmul_args& largest,
                               const moe_route_op_args& route);

  // What f reads: the device's h, or x where there is no norm before it. Holds after enter, enter_product or
  // enter_route.
  [[nodiscard]] moe_tensor input(StepDevice& device) const { return before_.present() ? device.h() : device.x(); }
  moe::Status enter(StepDevice& device) const;
  // The same, and f's first product of it into args.out.
  moe::Status enter_product(StepDevice& device, const moe::Op& product, moe_matmul_args args) const;
  // The same, and the decision from that.
  moe::Status enter_route(StepDevice& device, const moe::Op& product, const moe_matmul_args& args,
                          const moe_route_op_args& route) const;
  // Where f adds scale() * f(...): the residual stream, or memory of the branch's own that is zero.
  moe::Result<moe_tensor> target(StepDevice& device) const;
  moe::Status leave(StepDevice& device) const;
  [[nodiscard]] float scale() const { return after_.present() ? 1.0F : residual_scale_; }

 private:
  Norm before_, after_;
  NormedProduct first_;
  RoutedProduct routed_;
  moe::Op add_op_;
  moe_add_args add_args_{};
  size_t slot_ = 0;
  float residual_scale_ = 1;
};

}  // namespace patchbay
