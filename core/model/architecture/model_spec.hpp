// What a model is, in the engine's own words: every dimension, part and tensor, read from a checkpoint's config.json by
// an architecture file (configs/architectures/*.toml). Nothing here knows a model's name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/plugin/options.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// Where a weight lies in the checkpoint. `name` may hold {layer} and {expert}; with {expert} each group is a tensor of
// its own, without it the first dimension of a 3-D tensor counts the groups.
struct TensorPattern {
  std::string name;
  bool transposed = false;  // stored [n_in, n_out]
  // Of the tensor's output rows, part `part` of `n_parts`: consecutive blocks, or every n_parts-th row where
  // `interleaved`.
  int64_t part = 0;
  int64_t n_parts = 1;
  bool interleaved = false;
  // Added to every element (for norms that store w - 1).
  double offset = 0;
  // The tensor of block scales that belongs to it, if it is in the checkpoint; {tensor} is the name above. One scale
  // covers scale_rows x scale_cols elements; where `packed`, 32 four-bit elements of a row (MXFP4).
  std::string scales;
  int64_t scale_rows = 128;
  int64_t scale_cols = 128;
  std::string scaled_encoding;  // an encoding whose numbers mean nothing without scales; may be empty
  bool packed = false;
};

// Names that begin with `from` begin with `to` instead.
struct TensorRename {
  std::string from;
  std::string to;
};

// By role; the first alternative whose tensor exists is taken, of matrices the first that has the right shape too.
using TensorMap = std::map<std::string, std::vector<TensorPattern>>;

// Rotary embedding of one layer: see moe_rope_args.
struct RopeSpec {
  int64_t n_rot = 0;  // dimensions that turn; 0: none (NoPE)
  int64_t offset = 0;
  bool interleaved = false;
  float scale = 1;              // of cos and sin
  std::vector<float> inv_freq;  // [n_rot / 2]
};

enum class AttentionKind { kGroupedQuery, kLatent };
enum class QkNorm { kNone, kPerHead, kWhole };  // kWhole: over all heads together (OLMoE)

// Attention that sharpens with the position (arXiv 2501.19399): scale * (1 + strength * log(1 + floor((pos + offset) /
// length))).
struct AttentionTemperature {
  float strength = 0;  // 0: none
  int64_t length = 1;  // positions
  int32_t offset = 0;
};

struct AttentionSpec {
  AttentionKind kind = AttentionKind::kGroupedQuery;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t k_dim = 0;  // of a head: query and key
  int64_t v_dim = 0;
  // Latent attention (DeepSeek-V2, arXiv 2405.04434): k_dim = nope_dim + rope_dim.
  int64_t q_rank = 0;  // 0: queries are projected directly
  int64_t kv_rank = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  float scale = 0;     // of q . k
  float soft_cap = 0;  // of the scores
  int64_t window = 0;  // 0: all
  int64_t chunk = 0;   // > 0: positions attend inside chunks of so many (Llama-4)
  AttentionTemperature temperature;
  float clip_qkv = 0;  // > 0: q, k, v are clamped to +-clip
  bool sinks = false;
  bool qkv_bias = false;
  bool o_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  bool qk_norm_after_rope = false;
  bool qk_norm_weight = true;
  float norm_eps = 0;  // of the norms inside: of q and k, of latents
  RopeSpec rope;
};

// A plugin that the architecture asks for, and its options.
struct PartSpec {
  std::string plugin;
  std::vector<GivenOption> options;
};

struct FeedForwardSpec {
  int64_t n_experts = 0;  // 0: a dense layer
  int64_t n_zero_experts = 0;
  int64_t d_expert = 0;
  int64_t d_shared = 0;  // of the shared experts together, or of a dense layer
  PartSpec router;
  PartSpec expert;
};

struct LayerSpec {
  AttentionSpec attention;
  FeedForwardSpec ffn;
};

struct ModelSpec {
  std::string architecture;  // the file's name
  int64_t d_model = 0;
  int64_t n_vocab = 0;
  int64_t context = 0;  // the longest
  int64_t original_context =
      0;                 // > 0: beyond it the rotary frequencies are others, which short texts are the worse for
  bool rms_norm = true;  // otherwise layer norm
  float norm_eps = 0;
  bool norm_bias = false;
  bool tied = false;  // the head is the embedding
  bool head_bias = false;
  // Each part of a layer has a norm before it, after it (OLMo-2), or both (sandwich).
  bool norm_before = true;
  bool norm_after = false;
  float embed_scale = 1;
  float residual_scale = 1;  // of what attention and experts add
  float logit_scale = 1;
  float logit_cap = 0;
  std::vector<LayerSpec> layers;
  TensorMap tensors;         // embed, output_norm, head, ...
  TensorMap layer_tensors;   // attention_norm, q, k, v, o, ...
  TensorMap router_tensors;  // by the router's roles
  TensorMap expert_tensors;  // by the expert plugin's roles
  TensorMap dense_tensors;   // the same in dense layers
  // Other beginnings of names, for models of several parts: the first with which the embedding is found counts.
  std::vector<TensorRename> renames;
  std::vector<std::string>
      ignored;  // name prefixes that may lie in the file unused, with a note (multi-token prediction, ...)
  std::vector<std::string> notes;
};

}  // namespace patchbay
