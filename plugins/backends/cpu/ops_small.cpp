// Operations that treat each row by itself.
#include "moe/sdk/loops/attention.hpp"
#include "moe/sdk/loops/route.hpp"
#include "moe/sdk/loops/rows.hpp"
#include "ops.hpp"

namespace moe::cpu {
namespace {

Status embed(const Kernels& kernels, const moe_embed_args& args) {
  const moe_weight& table = *args.table;
  const int64_t n = args.out.shape[0];
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = item<int32_t>(args.ids, i);
    if (id < 0 || id >= table.n_out) {
      return Error{MOE_OUT_OF_RANGE, "ids[" + std::to_string(i) + "]: expected 0 to " +
                                         std::to_string(table.n_out - 1) + ", got " + std::to_string(id)};
    }
  }
  // A row of interleaved panels is spread over sixteen times its bytes.
  spread_rows(n, table.n_in * 4 * (table.rows_as_they_are ? 1 : kPanel), [&](int64_t i, int32_t) {
    float* out = at(args.out, i);
    read_row(table, 0, item<int32_t>(args.ids, i), out);
    if (args.scale != 1.0F) kernels.add(args.scale, out, 0.0F, nullptr, out, table.n_in);
  });
  return {};
}

Status norm(const Kernels& kernels, const moe_norm_args& args) {
  const int64_t n = args.x.shape[0];
  const int64_t heads = args.x.ndim == 3 ? args.x.shape[1] : 1;
  const int64_t dim = args.x.shape[args.x.ndim - 1];
  spread_rows(n * heads, 4 * dim, [&](int64_t i, int32_t) {
    const int64_t t = i / heads;
    const int64_t h = i % heads;
    kernels.norm(args, at(args.x, t, h), present(args.residual) ? at(args.residual, t, h) : nullptr, at(args.out, t, h),
                 dim);
  });
  return {};
}

uint64_t rope_workspace(const Kernels&, const moe_rope_args& args) {
  Arena arena;
  arena.take<double>(2 * args.inv_freq.shape[0] * n_threads());
  return arena.used();
}
Status rope(const Kernels& kernels, const moe_rope_args& args) {
  const int64_t heads = args.x.ndim == 3 ? args.x.shape[1] : 1;
  const int64_t half = args.inv_freq.shape[0];
  const auto* inv_freq = static_cast<const float*>(args.inv_freq.data);
  Arena arena(args.header);
  double* angles = arena.take<double>(2 * half * n_threads());
  MOE_TRY(arena.check());
  spread_rows(args.x.shape[0], half * (800 + 16 * heads), [&](int64_t t, int32_t thread) {
    double* cosine = angles + thread * 2 * half;
    double* sine = cosine + half;
    const double position = item<int32_t>(args.positions, t);
    for (int64_t i = 0; i < half; ++i) {
      cosine[i] = args.scale * std::cos(position * inv_freq[i]);
      sine[i] = args.scale * std::sin(position * inv_freq[i]);
    }
    for (int64_t h = 0; h < heads; ++h) {
      float* x = at(args.x, t, h) + args.offset;
      float* out = present(args.out) ? at(args.out, t, h) + args.offset : x;
      kernels.rotate(x, out, cosine, sine, half, args.interleaved != 0);
    }
  });
  return {};
}

Status cache_store(const Kernels& kernels, const moe_cache_store_args& args) {
  const moe_tensor& cache = args.cache;
  const int64_t dim = args.x.shape[1];
  const int64_t heads = cache.ndim == 3 ? cache.shape[1] : 1;
  const int64_t head_dim = cache.shape[cache.ndim == 3 ? 2 : 1];
  if (heads * head_dim != dim)
    return loops::bad("cache", "rows of " + std::to_string(dim) + " elements", heads * head_dim);
  const int64_t bytes = cache.dtype == MOE_F32 ? 4 : 2;
  const int64_t head_stride = heads > 1 ? cache.strides[1] : 0;
  spread_rows(args.x.shape[0], 4 * dim, [&](int64_t i, int32_t) {
    const int64_t to = item<int64_t>(args.rows, i);
    if (to < 0) return;
    char* out = static_cast<char*>(cache.data) + to * cache.strides[0] * bytes;
    for (int64_t h = 0; h < heads; ++h)
      kernels.narrow(cache.dtype, at(args.x, i) + h * head_dim, out + h * head_stride * bytes, head_dim);
  });
  return {};
}

Status activation(const Kernels& kernels, const moe_activation_args& args) {
  const int64_t width = args.gate.shape[1];
  spread_rows(args.gate.shape[0], 16 * width, [&](int64_t i, int32_t) {
    kernels.activate(args.gating, at(args.gate, i), args.gating.ungated != 0 ? nullptr : at(args.up, i),
                     at(args.out, i), width);
  });
  return {};
}

Status add(const Kernels& kernels, const moe_add_args& args) {
  const int64_t dim = args.x.shape[1];
  spread_rows(args.x.shape[0], 4 * dim, [&](int64_t i, int32_t) {
    kernels.add(args.alpha, at(args.x, i), args.beta, present(args.y) ? at(args.y, i) : nullptr, at(args.out, i), dim);
  });
  return {};
}

Status argmax(const Kernels& kernels, const moe_argmax_args& args) {
  const int64_t dim = args.x.shape[1];
  spread_rows(args.x.shape[0], 4 * dim, [&](int64_t i, int32_t) {
    static_cast<int32_t*>(args.ids.data)[i * args.ids.strides[0]] = kernels.argmax(at(args.x, i), dim);
  });
  return {};
}

Status combine(const Kernels& kernels, const moe_combine_args& args) {
  const int64_t k = args.slots.shape[1];
  const int64_t dim = args.out.shape[1];
  spread_rows(args.slots.shape[0], 4 * k * dim, [&](int64_t i, int32_t) {
    const int32_t* slots = row<int32_t>(args.slots, i);
    float* out = at(args.out, i);
    if (args.accumulate == 0) std::fill_n(out, dim, 0.0F);
    for (int64_t j = 0; j < k; ++j) {
      if (slots[j] >= 0) kernels.axpy(at(args.weights, i)[j], at(args.x, slots[j]), out, dim);
    }
  });
  return {};
}

// The SDK's loops where they are as good as anything of our own.
template <typename Args, Status (*kLoop)(const Args&, const loops::LoopContext&)>
Status loop(const Kernels&, const Args& args) {
  return kLoop(args, {host(), &kRowsExtension});
}
uint64_t route_workspace(const Kernels&, const moe_route_op_args& args) {
  return loops::route_workspace(args, {host(), &kRowsExtension});
}

constexpr OpRow kOps[] = {
    op_row<moe_embed_args, embed>(MOE_OP_EMBED),
    op_row<moe_norm_args, norm>(MOE_OP_NORM),
    op_row<moe_rope_args, rope, rope_workspace>(MOE_OP_ROPE),
    op_row<moe_cache_store_args, cache_store, no_workspace<moe_cache_store_args>, MOE_CACHE_STORE_HEADS>(
        MOE_OP_CACHE_STORE),
    op_row<moe_activation_args, activation>(MOE_OP_ACTIVATION),
    op_row<moe_add_args, add>(MOE_OP_ADD),
    op_row<moe_argmax_args, argmax>(MOE_OP_ARGMAX),
    op_row<moe_clamp_args, loop<moe_clamp_args, loops::clamp>>(MOE_OP_CLAMP),
    op_row<moe_combine_args, combine>(MOE_OP_COMBINE),
    op_row<moe_gather_args, loop<moe_gather_args, loops::gather>>(MOE_OP_GATHER),
    op_row<moe_identity_args, loop<moe_identity_args, loops::identity>>(MOE_OP_IDENTITY),
    op_row<moe_route_op_args, loop<moe_route_op_args, loops::route>, route_workspace>(MOE_OP_ROUTE),
};

}  // namespace

std::span<const OpRow> small_ops() { return kOps; }

}  // namespace moe::cpu
