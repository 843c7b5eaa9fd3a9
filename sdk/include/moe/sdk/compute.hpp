// The backend of a layer's part, as a router or an expert uses it.
#pragma once

#include <string>

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
