// Products with one token's activations: how fast weights come from memory is all that matters. The order of summation
// is another than that of the kernels for more tokens, so these are not for deterministic = true.
#pragma once

#include "kernels/ffn_stage.hpp"
#include "kernels/matvec.hpp"

namespace moe::cuda {

// Whether the shape is for launch_single: one row, p.single, weights of floats with activations of their own type or of
// f32 (kF8: MOE_BF16), MOE_I8 with kI8 and kI4. x must be as the products read it (reads_in_place).
bool single_fits(const MatvecParams& p);
cudaError_t launch_single(const MatvecParams& p, cudaStream_t stream);

// The same for a token's experts: in place of launch_ffn_up and launch_ffn_down.
bool single_fits(const FfnParams& p);
cudaError_t launch_single_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);
cudaError_t launch_single_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);

// What those call where weights are integers or kF8.
namespace single {
inline bool come_in_slices(Format format) {
  return format == Format::kI8 || format == Format::kI4 || format == Format::kF8;
}
bool slices_fit(const FfnParams& p);
cudaError_t launch_slices_up(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);
cudaError_t launch_slices_down(const FfnParams& p, const Hidden& hidden, cudaStream_t stream);
}  // namespace single

}  // namespace moe::cuda
