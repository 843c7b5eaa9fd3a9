// One step's tokens, and where its data lies on each device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/engine/device.hpp"
#include "moe/abi/ops.h"
#include "moe/sdk/tensor.hpp"

namespace patchbay {

// What the scheduler chose for one step. Tokens of one sequence stand together in ascending position.
struct Batch {
  std::vector<int32_t> ids;        // [n]
  std::vector<int32_t> positions;  // [n]
  std::vector<int32_t> sequences;  // [n]: row of page_table
  std::vector<int64_t> cache_rows; // [n]: where each token's row of the paged cache lies
  std::vector<int32_t> page_table; // [n_sequences, max_pages]
  std::vector<int32_t> logit_rows; // tokens whose logits are wanted, ascending
  int64_t max_pages = 0;

  [[nodiscard]] int64_t n_tokens() const { return static_cast<int64_t>(ids.size()); }
  [[nodiscard]] int64_t n_sequences() const { return max_pages == 0 ? 0 : static_cast<int64_t>(page_table.size()) / max_pages; }
  void clear() {
    ids.clear();
    positions.clear();
    sequences.clear();
    cache_rows.clear();
    page_table.clear();
    logit_rows.clear();
  }
};

// The largest step that a model is prepared for.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
  int64_t max_pages = 0;  // of a sequence
  int64_t n_pages = 0;    // of the cache
  int64_t page_tokens = 0;
};

// Scratch memory of a device, by name: every layer that asks for a name shares the memory, and the largest request counts. Requests come while
// the model is prepared; allocate() follows; from then on at() gives the address.
class Scratch {
 public:
  size_t request(const std::string& name, uint64_t n_bytes);
  moe::Status allocate(Device& device);
  [[nodiscard]] void* at(size_t slot) const { return slots_[slot].buffer.data(); }
  [[nodiscard]] uint64_t bytes(size_t slot) const { return slots_[slot].n_bytes; }
  [[nodiscard]] uint64_t total_bytes() const;

 private:
  struct Slot {
    std::string name;
    uint64_t n_bytes = 0;
    Buffer buffer;
  };
  std::vector<Slot> slots_;
};

// A device as the forward pass uses it: scratch, and a copy of the step's inputs.
class StepDevice {
 public:
  explicit StepDevice(Device& device) : device_(&device) {}

  Device& device() { return *device_; }
  [[nodiscard]] const moe_compute& compute() const { return device_->compute(); }
  Scratch& scratch() { return scratch_; }

  // Before allocate(): room for workspaces, which the operations of a device share, since they run one after the other.
  void request_workspace(uint64_t n_bytes) { workspace_bytes_ = std::max(workspace_bytes_, n_bytes); }
  moe::Status allocate(const StepLimits& limits, int64_t d_model);
  // At the beginning of each step.
  moe::Status upload(const Batch& batch);

  // The step's inputs on this device.
  [[nodiscard]] moe_tensor ids() const { return view(ids_, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor positions() const { return view(positions_, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor sequences() const { return view(sequences_, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor cache_rows() const { return view(cache_rows_, MOE_I64, n_tokens_); }
  [[nodiscard]] moe_tensor logit_rows() const { return view(logit_rows_, MOE_I32, n_logit_rows_); }
  [[nodiscard]] moe_pages pages() const;
  // The residual stream [n, d_model] and its normalised copy.
  [[nodiscard]] moe_tensor x() const { return moe::tensor(x_.data(), MOE_F32, {n_tokens_, d_model_}, device_->where()); }
  [[nodiscard]] moe_tensor h() const { return moe::tensor(h_.data(), MOE_F32, {n_tokens_, d_model_}, device_->where()); }
  [[nodiscard]] int64_t n_tokens() const { return n_tokens_; }
  // A scratch slot as f32 [shape].
  [[nodiscard]] moe_tensor scratch_f32(size_t slot, std::initializer_list<int64_t> shape) const {
    return moe::tensor(scratch_.at(slot), MOE_F32, shape, device_->where());
  }
  [[nodiscard]] void* workspace() const { return workspace_.data(); }
  [[nodiscard]] uint64_t workspace_bytes() const { return workspace_bytes_; }
  [[nodiscard]] uint64_t total_bytes() const;

  template <typename Args>
  moe::Status launch(const moe::Op& op, Args& args) const {
    return op.launch(args, workspace_.data(), workspace_bytes_);
  }

 private:
  [[nodiscard]] moe_tensor view(const Buffer& b, int32_t dtype, int64_t n) const { return moe::tensor(b.data(), dtype, {n}, device_->where()); }

  Device* device_;
  Scratch scratch_;
  StepLimits limits_;
  int64_t d_model_ = 0;
  int64_t n_tokens_ = 0;
  int64_t n_logit_rows_ = 0;
  int64_t n_sequences_ = 0;
  int64_t max_pages_ = 0;
  uint64_t workspace_bytes_ = 64;
  Buffer ids_, positions_, sequences_, cache_rows_, logit_rows_, page_table_, x_, h_, workspace_;
};

// Shapes for find_op: a view without data.
inline moe_tensor shape_f32(std::initializer_list<int64_t> shape) { return moe::tensor(nullptr, MOE_F32, shape); }
inline moe_tensor shape_i32(std::initializer_list<int64_t> shape) { return moe::tensor(nullptr, MOE_I32, shape); }

// The columns [begin, begin + n) of a 2-D tensor.
moe_tensor columns(moe_tensor t, int64_t begin, int64_t n);
// A [n, dim] view (of any row stride) as [n, heads, dim / heads].
moe_tensor as_heads(moe_tensor t, int64_t heads);

// Finds an operation and books its workspace.
template <typename Args>
moe::Result<moe::Op> find_op(StepDevice& device, const char* id, const Args& largest) {
  MOE_ASSIGN(moe::Op op, moe::Op::find(device.compute(), id, largest.header));
  device.request_workspace(op.workspace_bytes());
  return op;
}

}  // namespace patchbay
