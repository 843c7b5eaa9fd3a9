#include "core/model/architecture/model_spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/config/table_reader.hpp"
#include "core/model/architecture/architecture.hpp"
#include "core/model/architecture/rope.hpp"
#include "core/model/architecture/spec_reader.hpp"

namespace patchbay {
namespace {

// Bounds that no real model comes near, so that products of two dimensions cannot overflow.
constexpr int64_t kMaxDim = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;

moe::Result<TensorPattern> tensor_pattern(const TomlNode& node, const std::string& subject) {
  TensorPattern pattern;
  if (const auto* name = std::get_if<std::string>(&node.value)) {
    pattern.name = *name;
    return pattern;
  }
  TableReader reader(node, subject);
  pattern.name = reader.text("name");
  pattern.transposed = reader.flag("transposed", false);
  pattern.interleaved = reader.flag("interleaved", false);
  pattern.n_parts = reader.integer("n_parts", 1, 1, 64);
  pattern.part = reader.integer("part", 0, 0, pattern.n_parts - 1);
  pattern.offset = reader.number("offset", 0);
  pattern.scales = reader.text("scales");
  pattern.packed = reader.flag("packed", false);
  MOE_TRY(reader.finish());
  if (pattern.name.empty())
    return moe::invalid(fmt::format("{}: {}.name: expected a tensor's name, got none", node.where(), subject));
  return pattern;
}

moe::Status read_tensors(const TomlNode* table, const std::string& subject, TensorMap& out) {
  if (table == nullptr) return {};
  if (table->table() == nullptr)
    return moe::invalid(fmt::format("{}: {}: expected a table, got {}", table->where(), subject, table->type_name()));
  for (const auto& [role, node] : *table->table()) {
    const std::string where = subject + "." + role;
    if (role == "scales" || role == "renames" || (node.table() != nullptr && node.find("name") == nullptr))
      continue;  // [tensors.layer], ...
    std::vector<TensorPattern> alternatives;
    if (const auto* list = node.array()) {
      for (const auto& item : *list) {
        MOE_ASSIGN(TensorPattern pattern, tensor_pattern(item, where));
        alternatives.push_back(std::move(pattern));
      }
    } else {
      MOE_ASSIGN(TensorPattern pattern, tensor_pattern(node, where));
      alternatives.push_back(std::move(pattern));
    }
    out[role] = std::move(alternatives);
  }
  return {};
}

class SpecBuilder {
 public:
  SpecBuilder(const TomlNode& document, const nlohmann::json& config, int64_t context)
      : document_(document), config_(part_of(document, config)), wanted_context_(context) {}

  moe::Result<ModelSpec> build() {
    MOE_TRY(read_model());
    MOE_TRY(read_all_tensors());
    for (int64_t layer = 0; layer < n_layers_; ++layer) {
      variables_["layer"] = Value(layer);
      LayerSpec out;
      auto status = read_variables();
      if (status.ok()) status = read_layer(out);
      if (!status.ok()) return status.error().in(fmt::format("layer {}", layer));
      spec_.layers.push_back(std::move(out));
    }
    return std::move(spec_);
  }

 private:
  // The map that "root" names, if config.json has it: where a model of several parts keeps its language model. What
  // surrounds it is its key "outer".
  static nlohmann::json part_of(const TomlNode& document, const nlohmann::json& config) {
    const TomlNode* root = document.find("root");
    const auto* name = root == nullptr ? nullptr : std::get_if<std::string>(&root->value);
    const auto part = name == nullptr ? config.end() : config.find(*name);
    if (part == config.end() || !part->is_object()) return config;
    nlohmann::json inner = *part;
    inner["outer"] = config;
    return inner;
  }

  // The file's own names for expressions that it uses more than once, in this layer.
  moe::Status read_variables() {
    const TomlNode* table = document_.find("variables");
    if (table == nullptr || table->table() == nullptr) return {};
    for (const auto& [name, node] : *table->table()) variables_.erase(name);
    SpecReader r = reader("variables");
    std::map<std::string, Value> values;
    for (const auto& [name, node] : *table->table()) values[name] = r.value(name).value_or(Value());
    MOE_TRY(r.finish());
    for (auto& [name, value] : values) variables_[name] = std::move(value);
    return {};
  }

  SpecReader reader(std::string_view table) { return {document_.find(table), std::string(table), config_, variables_}; }

  moe::Status read_model() {
    SpecReader r = reader("model");
    spec_.d_model = r.integer("d_model", std::nullopt, 1, kMaxDim);
    n_layers_ = r.integer("n_layers", std::nullopt, 1, kMaxLayers);
    spec_.n_vocab = r.integer("n_vocab", std::nullopt, 1, kMaxDim);
    spec_.context = r.integer("context", 4096, 1, int64_t{1} << 32);
    const std::string norm = r.text("norm", "rms");
    const std::string position = r.text("norm_position", "before");
    spec_.norm_eps = static_cast<float>(r.number("norm_eps", 1e-6));
    spec_.norm_bias = r.flag("norm_bias", false);
    spec_.tied = r.flag("tied", false);
    spec_.head_bias = r.flag("head_bias", false);
    spec_.embed_scale = static_cast<float>(r.number("embed_scale", 1));
    spec_.residual_scale = static_cast<float>(r.number("residual_scale", 1));
    spec_.logit_scale = static_cast<float>(r.number("logit_scale", 1));
    spec_.logit_cap = static_cast<float>(r.number("logit_cap", 0));
    MOE_TRY(r.finish());
    if (norm != "rms" && norm != "layer")
      return moe::invalid(fmt::format("model.norm: expected 'rms' or 'layer', got \"{}\"", norm));
    spec_.rms_norm = norm == "rms";
    if (position != "before" && position != "after" && position != "both") {
      return moe::invalid(
          fmt::format("model.norm_position: expected 'before', 'after' or 'both', got \"{}\"", position));
    }
    spec_.norm_before = position != "after";
    spec_.norm_after = position != "before";
    variables_["n_layers"] = Value(n_layers_);
    return {};
  }

  moe::Status read_all_tensors() {
    const TomlNode* tensors = document_.find("tensors");
    MOE_TRY(read_tensors(tensors, "tensors", spec_.tensors));
    if (tensors == nullptr) return moe::invalid("tensors: expected a table of tensor names, got none");
    MOE_TRY(read_tensors(tensors->find("layer"), "tensors.layer", spec_.layer_tensors));
    MOE_TRY(read_tensors(tensors->find("router"), "tensors.router", spec_.router_tensors));
    MOE_TRY(read_tensors(tensors->find("expert"), "tensors.expert", spec_.expert_tensors));
    MOE_TRY(read_tensors(tensors->find("dense"), "tensors.dense", spec_.dense_tensors));
    MOE_TRY(read_scales(tensors->find("scales")));
    MOE_TRY(read_renames(tensors->find("renames")));
    // "ignored" reads as a tensor role whose names are prefixes.
    if (auto it = spec_.tensors.find("ignored"); it != spec_.tensors.end()) {
      for (const auto& p : it->second) spec_.ignored.push_back(p.name);
      spec_.tensors.erase(it);
    }
    return {};
  }

  // Where a checkpoint stores weights with block scales beside them, it does so for all.
  moe::Status read_scales(const TomlNode* scales) {
    if (scales == nullptr) return {};
    SpecReader reader(scales, "tensors.scales", config_, variables_);
    TensorPattern found;
    found.scales = reader.text("name", std::nullopt);
    found.scale_rows = reader.integer("rows", 128, 1, 1 << 20);
    found.scale_cols = reader.integer("cols", 128, 1, 1 << 20);
    found.scaled_encoding = reader.text("needed_by", "");
    MOE_TRY(reader.finish());
    for (TensorMap* map : {&spec_.layer_tensors, &spec_.router_tensors, &spec_.expert_tensors, &spec_.dense_tensors}) {
      for (auto& [role, patterns] : *map) {
        for (auto& p : patterns) {
          if (!p.scales.empty()) continue;
          p.scales = found.scales;
          p.scale_rows = found.scale_rows;
          p.scale_cols = found.scale_cols;
          p.scaled_encoding = found.scaled_encoding;
        }
      }
    }
    return {};
  }

  moe::Status read_renames(const TomlNode* renames) {
    if (renames == nullptr) return {};
    if (renames->array() == nullptr)
      return moe::invalid(
          fmt::format("{}: tensors.renames: expected a list, got {}", renames->where(), renames->type_name()));
    for (const auto& item : *renames->array()) {
      TableReader reader(item, "tensors.renames");
      TensorRename rename;
      rename.from = reader.text("from");
      rename.to = reader.text("to");
      MOE_TRY(reader.finish());
      spec_.renames.push_back(std::move(rename));
    }
    return {};
  }

  moe::Status read_layer(LayerSpec& out) {
    MOE_TRY(read_attention(out.attention));
    MOE_TRY(read_rope(out.attention));
    return read_ffn(out.ffn);
  }

  moe::Status read_attention(AttentionSpec& a) {
    SpecReader r = reader("attention");
    const std::string kind = r.text("kind", "grouped_query");
    a.n_heads = r.integer("n_heads", std::nullopt, 1, kMaxDim);
    a.qkv_bias = r.flag("qkv_bias", false);
    a.o_bias = r.flag("o_bias", false);
    a.sinks = r.flag("sinks", false);
    a.window = r.integer("window", 0, 0, int64_t{1} << 40);
    a.chunk = r.integer("chunk", 0, 0, int64_t{1} << 40);
    a.temperature.strength = static_cast<float>(r.number("temperature", 0));
    a.temperature.length = r.integer("temperature_length", 1, 1, int64_t{1} << 40);
    a.temperature.offset = static_cast<int32_t>(r.integer("temperature_offset", 0, 0, 1));
    a.qk_norm_after_rope = r.flag("qk_norm_after_rope", false);
    a.qk_norm_weight = r.flag("qk_norm_weight", true);
    a.norm_eps = static_cast<float>(r.number("norm_eps", spec_.norm_eps));
    a.soft_cap = static_cast<float>(r.number("soft_cap", 0));
    a.clip_qkv = static_cast<float>(r.number("clip_qkv", 0));
    const std::string qk_norm = r.text("qk_norm", "none");
    if (kind == "latent") {
      a.kind = AttentionKind::kLatent;
      a.q_rank = r.integer("q_rank", 0, 0, kMaxDim);
      a.kv_rank = r.integer("kv_rank", std::nullopt, 1, kMaxDim);
      a.nope_dim = r.integer("nope_dim", std::nullopt, 1, kMaxDim);
      a.rope_dim = r.integer("rope_dim", std::nullopt, 0, kMaxDim);
      a.v_dim = r.integer("v_dim", std::nullopt, 1, kMaxDim);
      a.k_dim = a.nope_dim + a.rope_dim;
      a.n_kv_heads = 1;
    } else {
      a.n_kv_heads = r.integer("n_kv_heads", a.n_heads, 1, kMaxDim);
      a.k_dim = r.integer("head_dim", std::nullopt, 1, kMaxDim);
      a.v_dim = r.integer("v_dim", a.k_dim, 1, kMaxDim);
    }
    a.scale =
        static_cast<float>(r.number("scale", 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(a.k_dim, 1)))));
    // Both kinds' keys are known, so that a base file may set them for either.
    for (const char* key : {"n_kv_heads", "head_dim", "v_dim", "q_rank", "kv_rank", "nope_dim", "rope_dim"})
      r.ignore(key);
    MOE_TRY(r.finish());
    if (kind != "grouped_query" && kind != "latent") {
      return moe::invalid(fmt::format("attention.kind: expected 'grouped_query' or 'latent', got \"{}\"", kind));
    }
    if (a.n_heads % a.n_kv_heads != 0) {
      return moe::invalid(
          fmt::format("attention.n_heads: expected a multiple of {} (n_kv_heads), got {}", a.n_kv_heads, a.n_heads));
    }
    if (qk_norm == "per_head") {
      a.qk_norm = QkNorm::kPerHead;
    } else if (qk_norm == "whole") {
      a.qk_norm = QkNorm::kWhole;
    } else if (qk_norm != "none") {
      return moe::invalid(
          fmt::format("attention.qk_norm: expected 'none', 'per_head' or 'whole', got \"{}\"", qk_norm));
    }
    return {};
  }

  moe::Status read_rope(AttentionSpec& a) {
    SpecReader r = reader("rope");
    const int64_t rotated = a.kind == AttentionKind::kLatent ? a.rope_dim : a.k_dim;
    RopeScaling s;
    const bool enabled = r.flag("enabled", true);
    a.rope.n_rot = r.integer("n_rot", rotated, 0, rotated);
    a.rope.interleaved = r.flag("interleaved", false);
    a.rope.offset = a.kind == AttentionKind::kLatent ? a.nope_dim : 0;
    s.type = r.text("type", "default");
    s.theta = r.number("theta", 10000);
    s.factor = r.number("factor", 1);
    s.original_context = r.integer("original_context", 0, 0, int64_t{1} << 32);
    if (has_two_regimes(s) && s.original_context > 0 && s.original_context < spec_.context)
      spec_.original_context = s.original_context;
    s.context = wanted_context_ > 0          ? wanted_context_
                : spec_.original_context > 0 ? spec_.original_context
                                             : spec_.context;
    s.beta_fast = r.number("beta_fast", 32);
    s.beta_slow = r.number("beta_slow", 1);
    s.mscale = r.number("mscale", 0);
    s.mscale_all_dim = r.number("mscale_all_dim", 0);
    s.attention_factor = r.number("attention_factor", 0);
    s.short_attention_factor = r.number("short_attention_factor", 0);
    s.long_attention_factor = r.number("long_attention_factor", 0);
    s.truncate = r.flag("truncate", true);
    s.low_freq_factor = r.number("low_freq_factor", 1);
    s.high_freq_factor = r.number("high_freq_factor", 4);
    s.short_factors = r.numbers("short_factors");
    s.long_factors = r.numbers("long_factors");
    MOE_TRY(r.finish());
    if (!enabled) a.rope.n_rot = 0;
    // The shared key's rotary part is all that latent attention has of positions; what did not turn would have no
    // place.
    if (a.kind == AttentionKind::kLatent && a.rope.n_rot != rotated) {
      return moe::invalid(fmt::format("rope.n_rot: expected {} (attention.rope_dim) with latent attention, got {}",
                                      rotated, a.rope.n_rot));
    }
    MOE_ASSIGN(RopeTable table, rope_table(s, a.rope.n_rot));
    a.rope.n_rot = static_cast<int64_t>(2 * table.inv_freq.size());
    if (a.rope.n_rot > rotated) {
      return moe::invalid(
          fmt::format("rope.n_rot: expected an even number up to {} (of a head), got {}", rotated, a.rope.n_rot - 1));
    }
    a.rope.inv_freq = std::move(table.inv_freq);
    a.rope.scale = static_cast<float>(table.attention_factor);
    return {};
  }

  moe::Status read_ffn(FeedForwardSpec& f) {
    SpecReader r = reader("ffn");
    const bool dense = r.flag("dense", false);
    const int64_t d_dense = r.integer("d_dense", 0, 0, kMaxDim);
    const int64_t n_experts = r.integer("n_experts", 0, 0, 1 << 20);
    const int64_t n_zero = r.integer("n_zero_experts", 0, 0, 1 << 20);
    const int64_t d_expert = r.integer("d_expert", 0, 0, kMaxDim);
    const int64_t d_shared = r.integer("d_shared", 0, 0, kMaxDim);
    MOE_TRY(r.finish());
    if (dense) {
      f.d_shared = d_dense;
      if (d_dense < 1) return moe::invalid("ffn.d_dense: expected at least 1 in a dense layer, got 0");
    } else {
      f.n_experts = n_experts;
      f.n_zero_experts = n_zero;
      f.d_expert = d_expert;
      f.d_shared = d_shared;
      if (n_experts < 1) return moe::invalid("ffn.n_experts: expected at least 1, got 0");
      if (d_expert < 1) return moe::invalid("ffn.d_expert: expected at least 1, got 0");
      SpecReader router = reader("router");
      f.router = router.part();
      MOE_TRY(router.finish());
    }
    SpecReader expert = reader("expert");
    f.expert = expert.part();
    return expert.finish();
  }

  const TomlNode& document_;
  const nlohmann::json config_;
  int64_t wanted_context_;
  int64_t n_layers_ = 0;
  std::map<std::string, Value> variables_;
  ModelSpec spec_;
};

}  // namespace

moe::Result<ModelSpec> build_model_spec(const TomlNode& document, const nlohmann::json& config, int64_t context) {
  return SpecBuilder(document, config, context).build();
}

}  // namespace patchbay
