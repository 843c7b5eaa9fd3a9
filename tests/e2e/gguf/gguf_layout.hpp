// A checkpoint of tests/golden again as a GGUF file, in the layout of llama.cpp's converters. Names, keys and rules are
// written down here a second time, apart from configs/architectures, and were compared with the files that
// tests/data/gguf/convert.py writes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/model/checkpoint/assemble.hpp"
#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/checkpoint/gguf_writer.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {

struct GgufLayout {
  std::string encoding = "f32";  // of matrices: f32 or bf16
  bool whole_kv_b = false;       // as older files have it
  size_t n_parts = 1;            // files; more are NAME-00001-of-0000N.gguf
};

class GgufFromFixture {
 public:
  // Writes to `path`, or to its parts.
  static void write(const std::filesystem::path& fixture, const std::filesystem::path& path, const GgufLayout& layout) {
    GgufFromFixture made(fixture, layout);
    made.add_metadata();
    made.add_tensors();
    made.write_files(path);
  }

 private:
  struct Tensor {
    TensorDeclaration declaration;
    std::vector<float> values;
  };

  GgufFromFixture(const std::filesystem::path& fixture, GgufLayout layout)
      : layout_(std::move(layout)), config_(json_file(fixture / "config.json")) {
    auto opened = open_checkpoint(fixture);
    if (!opened.ok()) {
      ADD_FAILURE() << opened.error().message;
      return;
    }
    checkpoint_ = std::move(*opened);
    const std::map<std::string, std::string> names = {
        {"MixtralForCausalLM", "llama"},        {"OlmoeForCausalLM", "olmoe"},
        {"Qwen2MoeForCausalLM", "qwen2moe"},    {"Qwen3MoeForCausalLM", "qwen3moe"},
        {"DeepseekV2ForCausalLM", "deepseek2"}, {"DeepseekV3ForCausalLM", "deepseek2"},
        {"GptOssForCausalLM", "gpt-oss"}};
    arch_ = names.at(config_.at("architectures")[0]);
  }

  [[nodiscard]] int64_t number(const char* key) const { return config_.at(key).get<int64_t>(); }
  [[nodiscard]] bool has(const char* key) const { return config_.contains(key) && !config_[key].is_null(); }

  void set(const std::string& key, GgufWriterValue value) {
    metadata_.emplace_back(arch_ + "." + key, std::move(value));
  }
  // An unsigned number of config.json, if it is there.
  void copy(const std::string& key, const char* config_key) {
    if (has(config_key)) set(key, static_cast<uint32_t>(number(config_key)));
  }

  void add_metadata() {
    metadata_.emplace_back("general.architecture", arch_);
    copy("block_count", "num_hidden_layers");
    copy("context_length", "max_position_embeddings");
    copy("embedding_length", "hidden_size");
    copy("feed_forward_length", "intermediate_size");
    copy("attention.head_count", "num_attention_heads");
    set("attention.layer_norm_rms_epsilon", config_.at("rms_norm_eps").get<float>());
    const auto& rope = config_.at("rope_parameters");
    set("rope.freq_base", rope.at("rope_theta").get<float>());
    if (rope.at("rope_type") == "yarn") {
      set("rope.scaling.type", std::string("yarn"));
      set("rope.scaling.factor", rope.at("factor").get<float>());
      set("rope.scaling.original_context_length", rope.at("original_max_position_embeddings").get<uint32_t>());
    }
    for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) copy("expert_count", key);
    copy("expert_used_count", "num_experts_per_tok");
    if (arch_ == "deepseek2") return add_latent_metadata();
    copy("attention.head_count_kv", "num_key_value_heads");
    copy("attention.key_length", "head_dim");
    copy("attention.value_length", "head_dim");
    if (arch_ == "llama") copy("vocab_size", "vocab_size");
    if (arch_ == "gpt-oss") copy("attention.sliding_window", "sliding_window");
    copy("expert_feed_forward_length", arch_ == "gpt-oss" ? "intermediate_size" : "moe_intermediate_size");
    if (arch_ == "qwen2moe") copy("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
  }

  void add_latent_metadata() {
    const auto u32 = [](int64_t n) { return static_cast<uint32_t>(n); };
    const int64_t heads = number("num_attention_heads");
    const int64_t rank = number("kv_lora_rank");
    const int64_t turning = number("qk_rope_head_dim");
    const int64_t key = number("qk_nope_head_dim") + turning;
    copy("attention.q_lora_rank", "q_lora_rank");
    copy("attention.kv_lora_rank", "kv_lora_rank");
    set("attention.head_count_kv", u32(layout_.whole_kv_b ? heads : 1));
    set("attention.key_length", u32(layout_.whole_kv_b ? key : rank + turning));
    set("attention.value_length", u32(layout_.whole_kv_b ? number("v_head_dim") : rank));
    if (!layout_.whole_kv_b) {
      set("attention.key_length_mla", u32(key));
      copy("attention.value_length_mla", "v_head_dim");
    }
    copy("rope.dimension_count", "qk_rope_head_dim");
    copy("leading_dense_block_count", "first_k_dense_replace");
    copy("expert_feed_forward_length", "moe_intermediate_size");
    copy("expert_shared_count", "n_shared_experts");
    set("expert_weights_scale", config_.at("routed_scaling_factor").get<float>());
    set("expert_weights_norm", config_.at("norm_topk_prob").get<bool>());
    copy("expert_group_count", "n_group");
    copy("expert_group_used_count", "topk_group");
    const bool sigmoid = config_.at("architectures")[0] == "DeepseekV3ForCausalLM";
    set("expert_gating_func", uint32_t{sigmoid ? 2U : 1U});
  }

  // The stored tensor, or null.
  [[nodiscard]] const TensorInfo* find(const std::string& name) const { return checkpoint_->find(name); }

  void add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    const std::string encoding =
        shape.size() < 2 || name.find("ffn_gate_inp") != std::string::npos ? "f32" : layout_.encoding;
    tensors_.push_back({{name, encoding, std::move(shape)}, std::move(values)});
  }
  void add(const std::string& name, const moe::Result<TensorSource>& source) {
    ASSERT_TRUE(source.ok()) << name << ": " << source.error().message;
    std::vector<float> values(static_cast<size_t>(element_count(source->shape())));
    source->read_f32(0, source->n_rows(), values.data());
    std::vector<int64_t> shape;  // dimensions of one element go
    for (const int64_t d : source->shape()) {
      if (d != 1) shape.push_back(d);
    }
    add(name, std::move(shape), std::move(values));
  }
  // The tensor under another name, if the checkpoint has it.
  bool rename(const std::string& from, const std::string& to) {
    const TensorInfo* tensor = find(from);
    if (tensor == nullptr) return false;
    add(to, TensorSource::plain(*tensor));
    return true;
  }

  void add_tensors() {
    rename("model.embed_tokens.weight", "token_embd.weight");
    rename("model.norm.weight", "output_norm.weight");
    rename("lm_head.weight", "output.weight");
    for (int64_t l = 0; l < number("num_hidden_layers"); ++l) {
      const std::string from = "model.layers." + std::to_string(l) + ".";
      const std::string to = "blk." + std::to_string(l) + ".";
      add_attention(from, to);
      const char* ffn_norm = arch_ == "gpt-oss" ? "post_attention_norm.weight" : "ffn_norm.weight";
      rename(from + "post_attention_layernorm.weight", to + ffn_norm);
      for (const char* part : {"gate", "up", "down"}) {
        rename(from + "mlp." + part + "_proj.weight", to + "ffn_" + part + ".weight");
        rename(from + "mlp.shared_expert." + part + "_proj.weight", to + "ffn_" + part + "_shexp.weight");
        rename(from + "mlp.shared_experts." + part + "_proj.weight", to + "ffn_" + part + "_shexp.weight");
      }
      for (const char* router : {"block_sparse_moe.gate.weight", "mlp.gate.weight", "mlp.router.weight"})
        rename(from + router, to + "ffn_gate_inp.weight");
      rename(from + "mlp.router.bias", to + "ffn_gate_inp.bias");
      rename(from + "mlp.gate.e_score_correction_bias", to + "exp_probs_b.bias");
      rename(from + "mlp.shared_expert_gate.weight", to + "ffn_gate_inp_shexp.weight");
      add_experts(from + "mlp.experts.", from + "block_sparse_moe.experts.", to);
    }
  }

  void add_attention(const std::string& from, const std::string& to) {
    const std::string attention = from + "self_attn.";
    rename(from + "input_layernorm.weight", to + "attn_norm.weight");
    const std::pair<const char*, const char*> names[] = {{"q_proj.weight", "attn_q.weight"},
                                                         {"k_proj.weight", "attn_k.weight"},
                                                         {"v_proj.weight", "attn_v.weight"},
                                                         {"o_proj.weight", "attn_output.weight"},
                                                         {"q_proj.bias", "attn_q.bias"},
                                                         {"k_proj.bias", "attn_k.bias"},
                                                         {"v_proj.bias", "attn_v.bias"},
                                                         {"o_proj.bias", "attn_output.bias"},
                                                         {"q_norm.weight", "attn_q_norm.weight"},
                                                         {"k_norm.weight", "attn_k_norm.weight"},
                                                         {"sinks", "attn_sinks.weight"},
                                                         {"q_a_proj.weight", "attn_q_a.weight"},
                                                         {"q_a_layernorm.weight", "attn_q_a_norm.weight"},
                                                         {"q_b_proj.weight", "attn_q_b.weight"},
                                                         {"kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"},
                                                         {"kv_a_layernorm.weight", "attn_kv_a_norm.weight"}};
    for (const auto& [old_name, new_name] : names) {
      const TensorInfo* tensor = find(attention + old_name);
      const bool turns = std::string(new_name) == "attn_q.weight" || std::string(new_name) == "attn_k.weight";
      if (tensor != nullptr && arch_ == "llama" && turns) {
        add_permuted(*tensor, to + new_name,
                     number(new_name[5] == 'q' ? "num_attention_heads" : "num_key_value_heads"));
      } else if (tensor != nullptr) {
        add(to + new_name, TensorSource::plain(*tensor));
      }
    }
    const TensorInfo* kv_b = find(attention + "kv_b_proj.weight");
    if (kv_b != nullptr && layout_.whole_kv_b) add(to + "attn_kv_b.weight", TensorSource::plain(*kv_b));
    if (kv_b != nullptr && !layout_.whole_kv_b) add_split(*kv_b, to);
  }

  // Of every head, rows i and i + n / 2 become 2 i and 2 i + 1.
  void add_permuted(const TensorInfo& tensor, const std::string& name, int64_t heads) {
    const auto source = TensorSource::plain(tensor);
    ASSERT_TRUE(source.ok());
    const int64_t width = source->row_elements();
    const int64_t rows = source->n_rows() / heads;
    std::vector<float> values(static_cast<size_t>(source->n_rows() * width));
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < rows; ++i)
        source->read_f32(h * rows + i % 2 * (rows / 2) + i / 2, 1, values.data() + (h * rows + i) * width);
    }
    add(name, {source->n_rows(), width}, std::move(values));
  }

  // k_b [heads, kv_rank, nope_dim] and v_b [heads, v_dim, kv_rank].
  void add_split(const TensorInfo& tensor, const std::string& to) {
    const int64_t heads = number("num_attention_heads");
    const int64_t nope = number("qk_nope_head_dim");
    const int64_t value = number("v_head_dim");
    const int64_t rank = number("kv_lora_rank");
    const auto whole = TensorSource::plain(tensor);
    ASSERT_TRUE(whole.ok());
    std::vector<float> keys, values;
    for (int64_t h = 0; h < heads; ++h) {
      append(keys, whole->slice(0, h * (nope + value), nope)->transposed());
      append(values, whole->slice(0, h * (nope + value) + nope, value));
    }
    add(to + "attn_k_b.weight", {heads, rank, nope}, std::move(keys));
    add(to + "attn_v_b.weight", {heads, value, rank}, std::move(values));
  }

  static void append(std::vector<float>& out, const moe::Result<TensorSource>& source) {
    ASSERT_TRUE(source.ok()) << source.error().message;
    const size_t begin = out.size();
    out.resize(begin + static_cast<size_t>(element_count(source->shape())));
    source->read_f32(0, source->n_rows(), out.data() + begin);
  }

  void add_experts(const std::string& experts, const std::string& mixtral, const std::string& to) {
    const std::pair<const char*, const char*> parts[] = {{"gate", "w1"}, {"up", "w3"}, {"down", "w2"}};
    for (const auto& [part, other] : parts) {
      const std::string name = to + "ffn_" + part + "_exps.weight";
      add_stack(experts, std::string(".") + part + "_proj.weight", name);
      add_stack(mixtral, std::string(".") + other + ".weight", name);
    }
    const TensorInfo* both = find(experts + "gate_up_proj");
    if (both == nullptr) return;
    // In one tensor with gate and up interleaved and matrices as [in, out], or as two halves of [out, in].
    const bool interleaved = arch_ == "gpt-oss";
    const auto stored = TensorSource::plain(*both);
    const auto down = TensorSource::plain(*find(experts + "down_proj"));
    ASSERT_TRUE(stored.ok() && down.ok());
    const auto whole = interleaved ? stored->transposed() : stored;
    const int64_t n = whole->shape()[1] / 2;
    add(to + "ffn_gate_exps.weight", interleaved ? whole->slice(1, 0, n, 2) : whole->slice(1, 0, n));
    add(to + "ffn_up_exps.weight", interleaved ? whole->slice(1, 1, n, 2) : whole->slice(1, n, n));
    add(to + "ffn_down_exps.weight", interleaved ? down->transposed() : down);
    rename(experts + "down_proj_bias", to + "ffn_down_exps.bias");
    const TensorInfo* bias = find(experts + "gate_up_proj_bias");
    if (bias == nullptr) return;
    const auto biases = TensorSource::plain(*bias);
    ASSERT_TRUE(biases.ok());
    add(to + "ffn_gate_exps.bias", biases->slice(1, 0, n, 2));
    add(to + "ffn_up_exps.bias", biases->slice(1, 1, n, 2));
  }

  // PREFIX<i>SUFFIX for all i as one tensor.
  void add_stack(const std::string& prefix, const std::string& suffix, const std::string& name) {
    std::vector<float> values;
    std::vector<int64_t> shape = {0};
    while (const TensorInfo* tensor = find(prefix + std::to_string(shape[0]) + suffix)) {
      append(values, TensorSource::plain(*tensor));
      if (shape.size() == 1) shape.insert(shape.end(), tensor->shape.begin(), tensor->shape.end());
      ++shape[0];
    }
    if (shape[0] > 0) add(name, std::move(shape), std::move(values));
  }

  void write_files(const std::filesystem::path& path) {
    const size_t n = layout_.n_parts;
    for (size_t part = 0; part < n; ++part) {
      std::vector<const Tensor*> own;
      for (size_t i = part; i < tensors_.size(); i += n) own.push_back(&tensors_[i]);
      GgufWriter::Metadata metadata;
      if (part == 0) metadata = metadata_;
      std::string name = path.string();
      if (n > 1) {
        metadata.emplace_back("split.no", static_cast<uint16_t>(part));
        metadata.emplace_back("split.count", static_cast<uint16_t>(n));
        metadata.emplace_back("split.tensors.count", static_cast<int32_t>(tensors_.size()));
        const auto digits = [](size_t i) { return std::string("0000") + std::to_string(i); };
        name = (path.parent_path() / path.stem()).string() + "-" + digits(part + 1) + "-of-" + digits(n) + ".gguf";
      }
      write_file(name, metadata, own);
    }
  }

  static void write_file(const std::string& path, const GgufWriter::Metadata& metadata,
                         const std::vector<const Tensor*>& tensors) {
    std::vector<TensorDeclaration> declarations;
    for (const Tensor* t : tensors) declarations.push_back(t->declaration);
    auto writer = GgufWriter::create(path, metadata, declarations);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    for (const Tensor* t : tensors) {
      std::vector<uint16_t> narrow;
      auto bytes = std::as_bytes(std::span(t->values));
      if (t->declaration.encoding == "bf16") {
        for (const float x : t->values) narrow.push_back(moe::f32_to_bf16(x));
        bytes = std::as_bytes(std::span(narrow));
      }
      ASSERT_TRUE(writer->write(t->declaration.name, bytes).ok()) << t->declaration.name;
    }
    ASSERT_TRUE(writer->finish().ok());
  }

  GgufLayout layout_;
  nlohmann::json config_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::string arch_;
  GgufWriter::Metadata metadata_;
  std::vector<Tensor> tensors_;
};

}  // namespace patchbay::e2e
