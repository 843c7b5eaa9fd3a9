// The backend of a layer's part, as a router or an expert uses it.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "moe/abi/ops.h"
#include "moe/abi/weights.h"
#include "moe/sdk/plugin.hpp"

namespace moe {

// A message buffer on the stack for calls into the other side.
class MessageBuffer {
 public:
  MessageBuffer() { text_[0] = '\0'; }
  moe_message* get() { return &message_; }
  [[nodiscard]] std::string text() const { return text_; }
  // The error of a call that did not return MOE_OK.
  [[nodiscard]] Error error(moe_status status) const {
    return {status, text_[0] == '\0' ? "failed without a message (status " + std::to_string(status) + ")" : text()};
  }
  MessageBuffer(const MessageBuffer&) = delete;
  MessageBuffer& operator=(const MessageBuffer&) = delete;

 private:
  char text_[512];
  moe_message message_{text_, sizeof(text_), 0};
};

// An argument struct of moe/abi/ops.h with its header filled in and every tensor absent.
template <typename Args>
Args op_args() {
  Args args{};
  args.header.struct_size = sizeof(Args);
  return args;
}

// An operation found for a compute: launch it with arguments no larger than those it was found with.
class Op {
 public:
  Op() = default;
  static Result<Op> find(const moe_compute& compute, const char* id, const moe_op_args& largest) {
    Op op;
    op.compute_ = &compute;
    op.info_ = make<moe_op_info>();
    MessageBuffer message;
    const moe_status status = compute.find_op(&compute, id, &largest, &op.info_, message.get());
    if (status != MOE_OK) return message.error(status).in(id);
    return op;
  }
  [[nodiscard]] uint64_t workspace_bytes() const { return info_.workspace_bytes; }
  [[nodiscard]] const moe_op_info& info() const { return info_; }
  explicit operator bool() const { return compute_ != nullptr; }

  // `args`: the header of the operation's own struct.
  Status launch(moe_op_args& args, void* workspace, uint64_t workspace_bytes) const {
    args.workspace = workspace;
    args.workspace_bytes = workspace_bytes;
    MessageBuffer message;
    const moe_status status = compute_->launch(compute_, info_.op, &args, message.get());
    if (status != MOE_OK) return message.error(status);
    return {};
  }
  template <typename Args>
  Status launch(Args& args, void* workspace, uint64_t workspace_bytes) const {
    return launch(args.header, workspace, workspace_bytes);
  }

 private:
  const moe_compute* compute_ = nullptr;
  moe_op_info info_{};
};

// A weight that a router or an expert makes itself, prepared by its backend for products in f32: what it derives from declared weights of
// placement HOST. Released with the object; the compute must outlive it.
class OwnWeight {
 public:
  OwnWeight() = default;
  // values: n_groups x [n_out, n_in]. [main-thread]
  static Result<OwnWeight> prepare(const moe_compute& compute, const char* name, int64_t n_groups, int64_t n_out, int64_t n_in,
                                   std::span<const float> values) {
    struct From {
      const float* values;
      int64_t n_out, n_in;
    } from{values.data(), n_out, n_in};
    auto source = make<moe_weight_source>();
    source.name = source.role = name;
    source.encoding = source.wanted = "f32";
    source.n_groups = n_groups;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    source.context = &from;
    source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& f = *static_cast<const From*>(context);
      std::memcpy(out, f.values + (group * f.n_out + row) * f.n_in, static_cast<size_t>(n_rows * f.n_in) * sizeof(float));
    };
    source.raw = [](void* context, int64_t group) -> const void* {
      const auto& f = *static_cast<const From*>(context);
      return f.values + group * f.n_out * f.n_in;
    };
    source.done = [](void*, int64_t) {};
    OwnWeight weight;
    weight.prepared_ = make<moe_prepared>();
    MessageBuffer message;
    const moe_status status = compute.backend->prepare(compute.instance, &source, &weight.prepared_, message.get());
    if (status != MOE_OK) {
      weight.prepared_ = {};
      return message.error(status).in(name);
    }
    return Result<OwnWeight>(std::move(weight));
  }
  ~OwnWeight() {
    if (prepared_.release != nullptr) prepared_.release(&prepared_);
  }
  OwnWeight(OwnWeight&& other) noexcept : prepared_(std::exchange(other.prepared_, moe_prepared{})) {}
  OwnWeight& operator=(OwnWeight&& other) noexcept {
    std::swap(prepared_, other.prepared_);
    return *this;
  }
  [[nodiscard]] const moe_weight* get() const { return prepared_.weight; }

 private:
  moe_prepared prepared_{};
};

// Rows of a weight declaration.
inline moe_weight_spec weight_spec(const char* role, int64_t n_groups, int64_t n_out, int64_t n_in, int32_t placement,
                                   bool optional = false) {
  moe_weight_spec w = make<moe_weight_spec>();
  w.role = role;
  w.n_groups = n_groups;
  w.n_out = n_out;
  w.n_in = n_in;
  w.placement = placement;
  w.optional = optional ? 1 : 0;
  return w;
}

}  // namespace moe
