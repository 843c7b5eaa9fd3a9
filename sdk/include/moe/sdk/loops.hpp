// Plain loops for every operation of moe/abi/ops.h. They are the definition of right: f32 inputs, sums in double in
// plain reading order, one rounding to f32 at the end, and exactly the formulas that the operation's description gives.
// Every backend is tested against them (tests/plugins/backends), the backend `reference` is them, and they run in the
// place of an operation that a backend refuses if the host can see its memory.
//
// Work is spread over the host's threads by rows or by columns of the output, never inside a sum: a result depends
// neither on the threads nor on the other rows. Nothing allocates, except for the text of an error.
#pragma once

#include "moe/sdk/growth.hpp"
#include "moe/sdk/loops/attention.hpp"
#include "moe/sdk/loops/common.hpp"
#include "moe/sdk/loops/ffn.hpp"
#include "moe/sdk/loops/matmul.hpp"
#include "moe/sdk/loops/route.hpp"
#include "moe/sdk/loops/rows.hpp"

namespace moe::loops {

// One operation: its id (MOE_OP_*), what it needs, and how it runs.
struct LoopOp {
  const char* id;
  // Bytes of workspace for arguments of these shapes or smaller; data pointers may be null. Depends on ctx.host's
  // thread count. [thread-safe]
  uint64_t (*workspace)(const moe_op_args& args, const LoopContext& ctx);
  // Runs it to the end. MOE_INVALID_ARGUMENT: shapes or enum values that do not fit, or too little workspace;
  // MOE_FAILED_PRECONDITION: it has weights and ctx.rows is null; outputs are untouched then. [compute-thread]
  Status (*run)(const moe_op_args& args, const LoopContext& ctx);
};

namespace detail {

template <typename Args>
uint64_t no_workspace(const Args&, const LoopContext&) {
  return 0;
}

// The argument struct of an operation, if that is what `args` is, with no bit in must_understand beyond `known`.
template <typename Args>
Status check_header(const moe_op_args& args, uint32_t known) {
  if (args.struct_size < kFirstSize<Args>)
    return bad("struct_size", "at least " + std::to_string(kFirstSize<Args>), args.struct_size);
  if ((args.must_understand & ~known) == 0) return {};
  return unimplemented("must_understand: expected bits of " + std::to_string(known) + ", got " +
                       std::to_string(args.must_understand));
}

template <typename Args, Status (*kRun)(const Args&, const LoopContext&),
          uint64_t (*kWorkspace)(const Args&, const LoopContext&) = no_workspace<Args>, uint32_t kKnown = 0>
constexpr LoopOp loop_op(const char* id) {
  return {id,
          [](const moe_op_args& args, const LoopContext& ctx) -> uint64_t {
            return check_header<Args>(args, kKnown).ok() ? kWorkspace(reinterpret_cast<const Args&>(args), ctx) : 0;
          },
          [](const moe_op_args& args, const LoopContext& ctx) -> Status {
            MOE_TRY(check_header<Args>(args, kKnown));
            return kRun(reinterpret_cast<const Args&>(args), ctx);
          }};
}

}  // namespace detail

inline constexpr LoopOp kOps[] = {
    detail::loop_op<moe_embed_args, embed, embed_workspace>(MOE_OP_EMBED),
    detail::loop_op<moe_norm_args, norm>(MOE_OP_NORM),
    detail::loop_op<moe_matmul_args, matmul, matmul_workspace>(MOE_OP_MATMUL),
    detail::loop_op<moe_rope_args, rope>(MOE_OP_ROPE),
    detail::loop_op<moe_cache_store_args, cache_store, detail::no_workspace<moe_cache_store_args>,
                    MOE_CACHE_STORE_HEADS>(MOE_OP_CACHE_STORE),
    detail::loop_op<moe_attention_args, attention, attention_workspace,
                    MOE_ATTENTION_CHUNK | MOE_ATTENTION_TEMPERATURE>(MOE_OP_ATTENTION),
    detail::loop_op<moe_route_op_args, route, route_workspace>(MOE_OP_ROUTE),
    detail::loop_op<moe_activation_args, activation>(MOE_OP_ACTIVATION),
    detail::loop_op<moe_ffn_args, ffn, ffn_workspace>(MOE_OP_FFN),
    detail::loop_op<moe_gather_args, gather>(MOE_OP_GATHER),
    detail::loop_op<moe_grouped_matmul_args, grouped_matmul, grouped_matmul_workspace>(MOE_OP_GROUPED_MATMUL),
    detail::loop_op<moe_combine_args, combine>(MOE_OP_COMBINE),
    detail::loop_op<moe_identity_args, identity>(MOE_OP_IDENTITY),
    detail::loop_op<moe_add_args, add>(MOE_OP_ADD),
    detail::loop_op<moe_clamp_args, clamp>(MOE_OP_CLAMP),
    detail::loop_op<moe_argmax_args, argmax>(MOE_OP_ARGMAX),
};

// The loop of an operation by its id; null if there is none.
inline const LoopOp* find(std::string_view id) {
  for (const LoopOp& op : kOps) {
    if (id == op.id) return &op;
  }
  return nullptr;
}

}  // namespace moe::loops
