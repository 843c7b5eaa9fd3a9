// Several operations as one (moe.backend.fused/1).
#pragma once

#include <memory>
#include <vector>

#include "ops.hpp"

namespace moe::cuda {

class FusedOp {
 public:
  virtual ~FusedOp() = default;
  // The faster way for these operations in order; MOE_UNIMPLEMENTED if there is none.
  static Result<std::unique_ptr<FusedOp>> find(const Context& context, std::span<const char* const> ids,
                                               std::span<const moe_op_args* const> largest, uint32_t temporary);
  [[nodiscard]] virtual Found found() const = 0;
  virtual Status run(const Context& context, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
                     cudaStream_t stream) const = 0;
};

}  // namespace moe::cuda
