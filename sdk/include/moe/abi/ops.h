/* The operations of a backend: an id and an argument struct each. C11, C++17.
 *
 * All activations are f32 unless a tensor's dtype says otherwise; n is the number of rows (tokens). A row's result may depend on that row
 * alone (and, in attention, on its own sequence's cache), never on the other rows, the number of rows or of threads: a backend
 * that cannot keep this clears MOE_CAP_BATCH_INVARIANT for the operation. The reference (moe/sdk/loops.hpp) sums in double. */
#ifndef MOE_ABI_OPS_H
#define MOE_ABI_OPS_H

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a product's activations are rounded to before it: MOE_F32 (not at all), MOE_BF16, MOE_F16 (round to nearest even), or MOE_I8
 * (symmetric, one scale for each 32 elements: amax / 127, round to nearest even). */
typedef int32_t moe_activation_type;

/* out[i, :] = scale * table[ids[i], :] */
#define MOE_OP_EMBED "moe.op.embed/1"
typedef struct moe_embed_args {
  moe_op_args header;
  const moe_weight* table; /* 1 group [n_vocab, d_model], MOE_USE_EMBED */
  moe_tensor ids;          /* [n] i32, each in [0, n_vocab) */
  moe_tensor out;          /* [n, d_model] */
  float scale;
  int32_t reserved;
} moe_embed_args;

/* Root-mean-square or layer normalisation of the innermost dimension:
 *   x += residual (where given; x is updated);  y = x / sqrt(mean(x^2) + eps) * weight   (RMS; Zhang & Sennrich 2019)
 *   y = (x - mean) / sqrt(var + eps) * weight + bias                                      (layer) */
#define MOE_OP_NORM "moe.op.norm/1"
enum { MOE_NORM_RMS = 1, MOE_NORM_LAYER = 2 };
typedef struct moe_norm_args {
  moe_op_args header;
  moe_tensor x;        /* [n, dim] or [n, heads, dim] */
  moe_tensor residual; /* like x, or absent */
  moe_tensor weight;   /* [dim], or absent: ones */
  moe_tensor bias;     /* [dim], or absent: zeros */
  moe_tensor out;      /* like x; may be x itself */
  float eps;
  int32_t kind; /* MOE_NORM_* */
} moe_norm_args;

/* out[i, g, :] = scale * (weight[g] x[i, g, :] + bias[g, :]), added to what is there where `accumulate`. With one group x and out may be
 * [n, n_in] and [n, n_out]. */
#define MOE_OP_MATMUL "moe.op.matmul/1"
typedef struct moe_matmul_args {
  moe_op_args header;
  const moe_weight* weight; /* n_groups x [n_out, n_in] */
  moe_tensor x;             /* [n, n_in] or [n, n_groups, n_in] */
  moe_tensor bias;          /* [n_groups * n_out], or absent */
  moe_tensor out;           /* [n, n_out] or [n, n_groups, n_out] */
  float scale;
  float soft_cap; /* > 0: out = soft_cap * tanh(out / soft_cap), last */
  moe_activation_type activation;
  int32_t accumulate; /* 1: out += */
} moe_matmul_args;

/* Rotary position embedding (Su et al. 2021), in place or into `out` (other elements of out are left alone): for i in [0, n_rot / 2), with angle = positions[t] * inv_freq[i],
 * the pair (a, b) becomes scale * (a cos - b sin, a sin + b cos). The pair is (2i, 2i + 1) where `interleaved`, else (i, i + n_rot / 2),
 * counted from `offset` of the innermost dimension. The angle is formed in double (or better). */
#define MOE_OP_ROPE "moe.op.rope/1"
typedef struct moe_rope_args {
  moe_op_args header;
  moe_tensor x;         /* [n, heads, dim] */
  moe_tensor out;       /* like x; absent: x itself */
  moe_tensor positions; /* [n] i32 */
  moe_tensor inv_freq;  /* [n_rot / 2] f32 */
  int64_t offset;
  float scale; /* of cos and sin: yarn's attention factor; usually 1 */
  int32_t interleaved;
} moe_rope_args;

/* cache[rows[i], :] = x[i, :], rounded to the cache's dtype. */
#define MOE_OP_CACHE_STORE "moe.op.cache_store/1"
typedef struct moe_cache_store_args {
  moe_op_args header;
  moe_tensor x;     /* [n, dim] f32 */
  moe_tensor rows;  /* [n] i64: physical rows of the paged cache; negative: skip */
  moe_tensor cache; /* [n_rows, dim] f32, f16 or bf16; or [n_rows, heads, dim / heads] */
} moe_cache_store_args;
/* In must_understand where `cache` has heads: they lie wherever its strides say, each head's rows one after the other for
 * instance, so that attention reads a head in one stream. The engine asks for that first and, where a backend does not know
 * the bit (MOE_UNIMPLEMENTED), keeps rows whole. */
enum { MOE_CACHE_STORE_HEADS = 1 };

/* Where a sequence's cache rows lie: position p of sequence s is physical row
 * page_table[s, p / page_size] * page_size + p % page_size. */
typedef struct moe_pages {
  moe_tensor page_table; /* [n_sequences, max_pages] i32 */
  int64_t page_size;     /* tokens */
} moe_pages;

/* Causal attention over a paged cache, grouped-query (Ainslie et al. 2023) or latent in absorbed form (DeepSeek-V2, arXiv 2405.04434):
 *   out[i, h] = sum_p a_p v[p, kv(h)],  a = softmax_p(scale * q[i, h] . k[p, kv(h)]),  p in [max(0, pos - window + 1), pos]
 * with pos = positions[i] and kv(h) = h * n_kv_heads / n_heads. Row i belongs to sequence sequences[i]; its own key and value have been
 * stored before. For latent attention k and v are views of the same rows, v a prefix: one kv head, k_dim = rank + rope, v_dim =
 * rank. `sinks` [n_heads] adds exp(sink) to the softmax's denominator (gpt-oss). soft_cap > 0: scores = cap * tanh(scores / cap).
 * Two more, each with a bit in must_understand when it is used:
 *   chunk > 0 (MOE_ATTENTION_CHUNK): positions attend within chunks of so many, p >= pos - pos % chunk (Llama-4's local layers)
 *   temperature > 0 (MOE_ATTENTION_TEMPERATURE): row i's scale is scale * (1 + temperature * log(1 + floor((pos +
 *   temperature_offset) / temperature_length))) (arXiv 2501.19399; Llama-4's global layers) */
#define MOE_OP_ATTENTION "moe.op.attention/1"
enum { MOE_ATTENTION_CHUNK = 1, MOE_ATTENTION_TEMPERATURE = 2 };
typedef struct moe_attention_args {
  moe_op_args header;
  moe_tensor q;         /* [n, n_heads, k_dim] */
  moe_tensor k;         /* [n_rows, n_kv_heads, k_dim] f32, f16 or bf16 */
  moe_tensor v;         /* [n_rows, n_kv_heads, v_dim] */
  moe_tensor sequences; /* [n] i32: row of the page table */
  moe_tensor positions; /* [n] i32 */
  moe_pages pages;
  moe_tensor sinks; /* [n_heads] f32, or absent */
  moe_tensor out;   /* [n, n_heads, v_dim] */
  int64_t window;   /* 0: all */
  float scale;
  float soft_cap;
  int64_t chunk;              /* 0: all */
  int64_t temperature_length; /* positions, at least 1 with a temperature */
  float temperature;          /* 0: none */
  int32_t temperature_offset;
} moe_attention_args;

/* From gate logits to a plan (ids, weights). In order: soft cap; score s; selection score c = s + bias; groups; top-k or what
 * replaces it; weights from the unbiased s; renormalise; scale. Ties go to the lower id. Scores and sums in f32 or better. Rows are
 * best first (by c). See each enum for the formula and the models that use it. */
#define MOE_OP_ROUTE "moe.op.route/1"
enum {                     /* score */
  MOE_SCORE_SOFTMAX = 1,   /* s = softmax(l): Mixtral, Qwen-MoE, OLMoE, DeepSeek-V2 */
  MOE_SCORE_SIGMOID = 2,   /* s = sigma(l): DeepSeek-V3, GLM-4.5, Llama-4 */
  MOE_SCORE_SQRT_SOFTPLUS = 3, /* s = sqrt(log(1 + e^l)): DeepSeek-V4 */
  MOE_SCORE_SOFTMAX_CHOSEN = 4, /* c = l + bias; w = softmax over the chosen l + bias: gpt-oss, Granite-MoE, JetMoE */
  MOE_SCORE_SPARSE_MIXER = 5, /* Phi-3.5-MoE's inference rule, k rounds; `sparse_eps` */
  MOE_SCORE_GROUP_GATE = 6 /* two gates (Jordan & Jacobs 1994; Shazeer 2017, app. B): logits are [n_groups + n_experts];
                              s = softmax(group logits)[g] * softmax(expert logits inside g) */
};
enum {                          /* how a group is scored */
  MOE_GROUP_NONE = 0,
  MOE_GROUP_MAX = 1,            /* the largest c inside: DeepSeek-V2 */
  MOE_GROUP_TOP2_SUM = 2,       /* the sum of the two largest c inside: DeepSeek-V3 */
  MOE_GROUP_GATE_SCORE = 3,     /* the group's own gate: MOE_SCORE_GROUP_GATE */
  MOE_GROUP_SUM = 4             /* the sum of all c inside. With MOE_SCORE_SOFTMAX and no bias that is the softmax over the groups'
                                   log-sum-exp: a hierarchical router on a checkpoint that has one gate only */
};
enum {                          /* what c becomes outside the kept groups */
  MOE_FILL_ZERO = 0,            /* 0: Hugging Face's DeepSeek-V3 (differs from -inf where c < 0) */
  MOE_FILL_MINUS_INFINITY = 1   /* DeepSeek's own code, vLLM */
};
enum {                          /* renormalisation of the chosen weights */
  MOE_RENORM_NONE = 0,
  MOE_RENORM_SUM = 1,           /* w / (sum w + eps) */
  MOE_RENORM_CLAMP = 2          /* w / max(sum w, eps) */
};
enum {                          /* dynamic k: how many of the top_k are kept (count); weights of the others are 0 */
  MOE_DYNAMIC_NONE = 0,
  MOE_DYNAMIC_RATIO = 1,        /* the first k_min, then those with s_i > threshold * s_0 (ik_llama's -ser) */
  MOE_DYNAMIC_TOP_P = 2         /* the fewest whose s sums to >= threshold (arXiv 2403.07652), at least k_min */
};
enum {                          /* where the expert's weight is applied */
  MOE_WEIGHT_ON_OUTPUT = 0,
  MOE_WEIGHT_ON_INPUT = 1       /* E(w x): Llama-4 */
};
typedef struct moe_route_op_args {
  moe_op_args header;
  moe_tensor logits;  /* [n, n_experts], or [n, n_groups + n_experts] with MOE_SCORE_GROUP_GATE */
  moe_tensor bias;    /* [n_experts] f32, or absent; enters the selection only (MOE_SCORE_SOFTMAX_CHOSEN: also the weights) */
  moe_tensor ids;     /* out [n, top_k] i32 */
  moe_tensor weights; /* out [n, top_k] f32 */
  moe_tensor count;   /* out [n] i32, or absent; needed with dynamic k */
  int32_t n_experts;  /* zero-compute experts included */
  int32_t top_k;      /* columns of ids */
  int32_t score;      /* MOE_SCORE_* */
  int32_t group_score;
  int32_t n_groups;
  int32_t top_groups;
  int32_t fill;
  int32_t renorm;
  int32_t dynamic;
  int32_t k_min;
  float threshold;
  float renorm_eps;
  float scale;      /* of the weights, last */
  float logit_cap;  /* > 0: l = cap * tanh(l / cap) first (Grok) */
  float sparse_eps; /* SparseMixer's jitter eps (router_jitter_noise) */
  int32_t reserved;
} moe_route_op_args;

/* Gated and plain activations (g the gate's output, u the up projection's). */
enum {
  MOE_ACT_SILU = 1,      /* silu(g) u: SwiGLU */
  MOE_ACT_GELU = 2,      /* gelu(g) u, exact (erf) */
  MOE_ACT_GELU_TANH = 3, /* gelu(g) u, tanh form */
  MOE_ACT_RELU = 4,      /* relu(g) u */
  MOE_ACT_RELU2 = 5,     /* relu(g)^2 u */
  MOE_ACT_SWIGLU_CLAMPED = 6 /* gpt-oss: g = min(g, limit), u = clamp(u, +-limit); (u + 1) g sigma(alpha g) */
};
typedef struct moe_gating {
  int32_t kind;    /* MOE_ACT_* */
  int32_t ungated; /* 1: there is no up projection; act(g) alone */
  float limit;     /* > 0 and kind != SWIGLU_CLAMPED: act(g) = min(act(g), limit), u = clamp(u, +-limit) (Step-3.5) */
  float alpha;
} moe_gating;

/* out[i, :] = act(gate[i, :], up[i, :]) */
#define MOE_OP_ACTIVATION "moe.op.activation/1"
typedef struct moe_activation_args {
  moe_op_args header;
  moe_tensor gate; /* [n, width] */
  moe_tensor up;   /* [n, width], or absent when ungated */
  moe_tensor out;  /* [n, width]; may be gate */
  moe_gating gating;
} moe_activation_args;

/* The whole feed-forward of a set of experts:
 *   out[i] (+)= scale * sum_j w[i, j] * (down[e] act(gate[e] x[i] (+ b), up[e] x[i] (+ b)) (+ b)),  e = ids[i, j] - group_base,
 * for those j < count[i] with first_expert <= ids[i, j] < first_expert + n_experts, in ascending j. Without ids every row goes to group
 * 0 with weight 1. Where row_gate is given, the sum is multiplied by sigma(row_gate[i]) (Qwen2-MoE's shared expert). */
#define MOE_OP_FFN "moe.op.ffn/1"
typedef struct moe_ffn_args {
  moe_op_args header;
  const moe_weight* gate; /* n_experts x [width, d_model] */
  const moe_weight* up;   /* like gate, or null: ungated */
  const moe_weight* down; /* n_experts x [d_model, width] */
  moe_tensor gate_bias;   /* [n_experts, width], or absent; the same for the others */
  moe_tensor up_bias;
  moe_tensor down_bias; /* [n_experts, d_model], or absent */
  moe_tensor x;         /* [n, d_model] */
  moe_tensor ids;       /* [n, k] i32, or absent */
  moe_tensor weights;   /* [n, k] f32 */
  moe_tensor count;     /* [n] i32, or absent: k everywhere */
  moe_tensor row_gate;  /* [n] or [n, 1] f32, or absent */
  moe_tensor out;       /* [n, d_model] */
  int64_t first_expert; /* id of group 0 of the weights */
  int64_t n_experts;    /* groups of the weights */
  int64_t width;
  moe_gating gating;
  moe_activation_type activation;
  int32_t weight_on; /* MOE_WEIGHT_ON_* */
  int32_t accumulate;
  float scale;
} moe_ffn_args;

/* The four steps of an expert layer one by one, for expert plugins that put something of their own between them.
 * gather:          out[r, :] = x[rows[r], :]
 * grouped_matmul:  rows r of group g (offsets[g] <= r < offsets[g + 1]) of x are multiplied by weight[g]
 * combine:         out[i, :] (+)= sum_j weights[i, j] * x[slots[i, j], :], skipping negative slots, in ascending j */
#define MOE_OP_GATHER "moe.op.gather/1"
typedef struct moe_gather_args {
  moe_op_args header;
  moe_tensor x;    /* [n, dim] */
  moe_tensor rows; /* [m] i32 */
  moe_tensor out;  /* [m, dim] */
} moe_gather_args;

#define MOE_OP_GROUPED_MATMUL "moe.op.grouped_matmul/1"
typedef struct moe_grouped_matmul_args {
  moe_op_args header;
  const moe_weight* weight; /* n_groups x [n_out, n_in] */
  moe_tensor x;             /* [m, n_in], sorted by group */
  moe_tensor offsets;       /* [n_groups + 1] i32 */
  moe_tensor bias;          /* [n_groups, n_out], or absent */
  moe_tensor out;           /* [m, n_out] */
  moe_activation_type activation;
  int32_t reserved;
} moe_grouped_matmul_args;

#define MOE_OP_COMBINE "moe.op.combine/1"
typedef struct moe_combine_args {
  moe_op_args header;
  moe_tensor x;       /* [m, dim] */
  moe_tensor slots;   /* [n, k] i32 */
  moe_tensor weights; /* [n, k] f32 */
  moe_tensor out;     /* [n, dim] */
  int32_t accumulate;
  int32_t reserved;
} moe_combine_args;

/* Experts that return their input (LongCat-Flash's zero-compute experts):
 *   out[i, :] += scale * (sum of weights[i, j] over j < count[i] with ids[i, j] >= first) * x[i, :] */
#define MOE_OP_IDENTITY "moe.op.identity/1"
typedef struct moe_identity_args {
  moe_op_args header;
  moe_tensor x;       /* [n, dim] */
  moe_tensor ids;     /* [n, k] i32 */
  moe_tensor weights; /* [n, k] f32 */
  moe_tensor count;   /* [n] i32, or absent: k everywhere */
  moe_tensor out;     /* [n, dim] */
  int64_t first;      /* the lowest id that is such an expert */
  float scale;
  int32_t reserved;
} moe_identity_args;

/* out = alpha * x + beta * y, row by row; y absent: alpha * x. out may be x or y. */
#define MOE_OP_ADD "moe.op.add/1"
typedef struct moe_add_args {
  moe_op_args header;
  moe_tensor x;   /* [n, dim] */
  moe_tensor y;   /* [n, dim], or absent */
  moe_tensor out; /* [n, dim] */
  float alpha;
  float beta;
} moe_add_args;

/* out = x, but at least -limit and at most limit (OLMo, DBRX: queries, keys and values). NaN stays. out may be x. */
#define MOE_OP_CLAMP "moe.op.clamp/1"
typedef struct moe_clamp_args {
  moe_op_args header;
  moe_tensor x;   /* [n, dim] */
  moe_tensor out; /* [n, dim] */
  float limit;    /* above 0 */
  int32_t reserved;
} moe_clamp_args;

/* ids[i] = the lowest index of the largest value of row i; -1 where nothing may be chosen: NaN or +inf anywhere in the row, or nothing above
 * -inf. */
#define MOE_OP_ARGMAX "moe.op.argmax/1"
typedef struct moe_argmax_args {
  moe_op_args header;
  moe_tensor x;   /* [n, dim] */
  moe_tensor ids; /* [n] i32 */
} moe_argmax_args;

#ifdef __cplusplus
}
#endif
#endif
