// One step's tokens, and where its data lies on each device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
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

// Where a step's inputs lie in one block of memory, so that one copy brings them to a device. In bytes.
struct InputLayout {
  uint64_t cache_rows = 0, ids = 0, positions = 0, sequences = 0, logit_rows = 0, page_table = 0, end = 0;
  InputLayout(int64_t n_tokens, int64_t n_logit_rows, int64_t n_page_entries);
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
  // Before allocate(): int32 columns, a row a token, in the block of the step's decisions, which reaches the host with the logits. Returns the
  // first column.
  int64_t request_decisions(int64_t columns) { return std::exchange(decision_columns_, decision_columns_ + columns); }
  moe::Status allocate(const StepLimits& limits, int64_t d_model);
  // At the beginning of each step.
  moe::Status upload(const Batch& batch);
  // At its end: the decisions will be on the host after the next sync.
  moe::Status start_download_decisions();

  // The step's inputs on this device, and on the host.
  [[nodiscard]] moe_tensor ids() const { return view(layout_.ids, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor positions() const { return view(layout_.positions, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor sequences() const { return view(layout_.sequences, MOE_I32, n_tokens_); }
  [[nodiscard]] moe_tensor cache_rows() const { return view(layout_.cache_rows, MOE_I64, n_tokens_); }
  [[nodiscard]] moe_tensor logit_rows() const { return view(layout_.logit_rows, MOE_I32, n_logit_rows_); }
  // As many columns of pages as the longest sequence of the step needs, rounded up to a power of two.
  [[nodiscard]] moe_pages pages() const;
  [[nodiscard]] moe_tensor host_ids() const { return host_view(layout_.ids, n_tokens_); }
  [[nodiscard]] moe_tensor host_positions() const { return host_view(layout_.positions, n_tokens_); }
  [[nodiscard]] moe_tensor host_sequences() const { return host_view(layout_.sequences, n_tokens_); }
  [[nodiscard]] moe_pages host_pages() const;

  // The step's decisions [n, columns], from the column that request_decisions gave.
  [[nodiscard]] moe_tensor decisions(int64_t first, int64_t columns) const {
    return moe::tensor(static_cast<int32_t*>(decisions_.data()) + first * n_tokens_, MOE_I32, {n_tokens_, columns}, device_->where());
  }
  [[nodiscard]] const int32_t* host_decisions(int64_t first) const {
    const Buffer& b = device_->host_visible() ? decisions_ : host_decisions_;
    return static_cast<const int32_t*>(b.data()) + first * n_tokens_;
  }

  // The residual stream [n, d_model] and its normalised copy.
  [[nodiscard]] moe_tensor x() const { return moe::tensor(x_.data(), MOE_F32, {n_tokens_, d_model_}, device_->where()); }
  [[nodiscard]] moe_tensor h() const { return moe::tensor(h_.data(), MOE_F32, {n_tokens_, d_model_}, device_->where()); }
  [[nodiscard]] int64_t n_tokens() const { return n_tokens_; }
  [[nodiscard]] int64_t n_logit_rows() const { return n_logit_rows_; }
  [[nodiscard]] int64_t n_sequences() const { return n_sequences_; }
  [[nodiscard]] int64_t used_pages() const { return used_pages_; }
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
  [[nodiscard]] moe_tensor view(uint64_t offset, int32_t dtype, int64_t n) const {
    return moe::tensor(static_cast<char*>(inputs_.data()) + offset, dtype, {n}, device_->where());
  }
  // Where the host writes and reads the inputs.
  [[nodiscard]] char* host_inputs() const {
    return static_cast<char*>(device_->host_visible() ? inputs_.data() : host_inputs_.data());
  }
  [[nodiscard]] moe_tensor host_view(uint64_t offset, int64_t n) const { return moe::tensor(host_inputs() + offset, MOE_I32, {n}); }

  Device* device_;
  Scratch scratch_;
  StepLimits limits_;
  InputLayout layout_{0, 0, 0};
  int64_t d_model_ = 0;
  int64_t n_tokens_ = 0;
  int64_t n_logit_rows_ = 0;
  int64_t n_sequences_ = 0;
  int64_t max_pages_ = 0;
  int64_t used_pages_ = 0;
  int64_t decision_columns_ = 0;
  uint64_t workspace_bytes_ = 64;
  Buffer inputs_, host_inputs_, decisions_, host_decisions_, x_, h_, workspace_;
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

// Operations in order that a backend may run as one; one by one where it has no faster way.
class Fused {
 public:
  // An operation as it was found, its id, and its arguments: the largest in find(), a step's in run().
  struct Part {
    const char* id;
    const moe::Op* op;
    moe_op_args* args;
  };
  // `temporary`, bit i: nobody reads what part i wrote when all are done.
  moe::Status find(StepDevice& device, std::span<const Part> parts, uint32_t temporary);
  moe::Status run(StepDevice& device, std::span<const Part> parts) const;
  // Whether the backend has a faster way.
  [[nodiscard]] bool found() const { return info_.has_value(); }

 private:
  std::optional<moe_op_info> info_;
};

}  // namespace patchbay
