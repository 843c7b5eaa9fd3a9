// A gate: the product that the router's logits come from, with the norm before it and the decision after it, for few
// tokens in one launch.
#pragma once

#include "kernels/matvec.hpp"
#include "kernels/route.hpp"

namespace moe::cuda {

struct GateParams {
  MatvecParams product;  // its norm_weight null: no norm. `out` null: nobody reads the logits. No workspace.
  RouteParams route;     // of the product's outputs; `logits` does not matter
};

// Whether the device, the shapes and the weight are for launch_gate: compute capability 9.0, floats of f32 activations,
// a weight that a few multiprocessors hold. The order of summation is one of its own, so not for deterministic = true.
bool gate_fits(const GateParams& p);
// Whether the call is, too: 1 to kMostNormedRows rows that are read where they lie.
bool gate_takes(const GateParams& p);
// The ids, weights and counts are bit by bit those of launch_route with these logits.
cudaError_t launch_gate(const GateParams& p, cudaStream_t stream);

}  // namespace moe::cuda
