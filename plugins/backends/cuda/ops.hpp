// The backend's operations: a table of rows by id. Each checks its shapes when it is found and builds the kernels'
// parameters when it is launched.
#pragma once

#include <cuda_runtime_api.h>

#include <span>
#include <string_view>

#include "blas.hpp"
#include "error.hpp"
#include "kernels/matvec.hpp"
#include "kernels/route.hpp"
#include "kernels/rows.hpp"
#include "moe/abi/ops.h"
#include "moe/sdk/loops/common.hpp"
#include "weight.hpp"

namespace moe::cuda {

// Of Context::tickets.
inline constexpr int64_t kTickets = 4096;

// What operations run with.
struct Context {
  int device = 0;
  cudaStream_t stream = nullptr;
  int n_multiprocessors = 0;
  const Blas* blas = nullptr;
  bool deterministic = false;
  bool pdl = false;         // programmatic dependent launch: compute capability 9.0 and later
  size_t shared_bytes = 0;  // that a block may have
  // [kTickets], 0 between operations: blocks of one kernel on `stream` count each other.
  unsigned* tickets = nullptr;
  // Whether one token may take kernels of its own (kernels/single.hpp).
  [[nodiscard]] bool single() const { return !deterministic && shared_bytes >= size_t{227} * 1024; }
};

// What find says of an operation.
struct Found {
  const char* implementation = "cuda";
  uint64_t workspace_bytes = 0;
};

// One operation. `find` gets shapes as large as they will come, without data; `run` enqueues.
struct OpRow {
  const char* id;
  uint32_t struct_size;
  uint32_t understood;  // bits of must_understand
  Result<Found> (*find)(const Context& context, const moe_op_args& largest);
  Status (*run)(const Context& context, const moe_op_args& args, cudaStream_t stream);
};

std::span<const OpRow> rows_ops();
std::span<const OpRow> matmul_ops();
std::span<const OpRow> attention_ops();
std::span<const OpRow> route_ops();
std::span<const OpRow> ffn_ops();

template <typename Args, Result<Found> (*kFind)(const Context&, const Args&),
          Status (*kRun)(const Context&, const Args&, cudaStream_t)>
constexpr OpRow op_row(const char* id, uint32_t understood = 0) {
  return {id, sizeof(Args), understood,
          [](const Context& c, const moe_op_args& a) { return kFind(c, reinterpret_cast<const Args&>(a)); },
          [](const Context& c, const moe_op_args& a, cudaStream_t s) {
            return kRun(c, reinterpret_cast<const Args&>(a), s);
          }};
}

// A tensor [n, dim] or [n, heads, dim] as kernels take it.
template <typename T>
Rows<T> rows_of(const moe_tensor& t) {
  return {static_cast<T*>(t.data), t.strides[0], t.ndim == 3 ? t.strides[1] : 0};
}
inline int64_t heads_of(const moe_tensor& t) { return t.ndim == 3 ? t.shape[1] : 1; }
inline int64_t width_of(const moe_tensor& t) { return t.ndim == 0 ? 0 : t.shape[t.ndim - 1]; }
template <typename T>
T* data_of(const moe_tensor& t) {
  return static_cast<T*>(t.data);
}

// Hands out parts of a call's workspace on 256 bytes; without memory it only counts.
class Space {
 public:
  Space() = default;
  explicit Space(const moe_op_args& args) : base_(static_cast<char*>(args.workspace)), capacity_(args.workspace_bytes) {
    // Lent on 64 bytes.
    used_ = (kAlignment - reinterpret_cast<uintptr_t>(base_) % kAlignment) % kAlignment;
  }
  template <typename T>
  T* take(int64_t n) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    asked_ = asked_ || n > 0;
    used_ += (static_cast<uint64_t>(n > 0 ? n : 0) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }
  // To ask for: with room to begin on 256 bytes.
  [[nodiscard]] uint64_t wanted() const { return used_ == 0 ? 0 : used_ + kAlignment; }
  [[nodiscard]] Status check() const {
    if (used_ <= capacity_ || base_ == nullptr || !asked_) return {};
    return invalid("workspace: expected at least " + std::to_string(used_) + " bytes, got " +
                   std::to_string(capacity_));
  }

 private:
  static constexpr uint64_t kAlignment = 256;
  char* base_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t used_ = 0;
  bool asked_ = false;
};

// Kernels' parameters from an operation's arguments.
NormParams norm_params(const moe_norm_args& a);
RopeParams rope_params(const moe_rope_args& a);
CacheStoreParams cache_store_params(const moe_cache_store_args& a);
RouteParams route_params(const moe_route_op_args& a);
// Without workspace.
MatvecParams matvec_params(const Context& context, const moe_matmul_args& a);

// Whether the product reads its rows as 16-bit floats, so that a norm in front may write them as such ...
bool takes_narrow_rows(const Context& context, const moe_matmul_args& a);
// ... which this does: the product of the norm's rows, which reach nobody else. The workspace is that of the product.
Status run_normed_matmul(const Context& context, NormParams norm, const moe_matmul_args& a, cudaStream_t stream);

// Whether `args` is what the operation takes.
Status check_header(const OpRow& row, const moe_op_args& args);

// An operation of the table by its id; null if there is none.
const OpRow* find_op_row(std::string_view id);

// A weight that a call names, with the shape that it must have (0: any).
Result<WeightView> expect_weight(const moe_weight* weight, std::string_view name, int64_t n_groups, int64_t n_out,
                                 int64_t n_in);

}  // namespace moe::cuda
