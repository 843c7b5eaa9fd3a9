"""Writes a Hugging Face checkpoint of a known architecture as GGUF with the package `gguf`, in the layout that llama.cpp's converters use:
its metadata keys and tensor names, q and k permuted for architecture "llama", experts stacked, k_b and v_b split (--whole-kv-b: not).

    convert.py DIR OUT.gguf [--type F32] [--whole-kv-b] [--split N]

Needs gguf, numpy, safetensors, torch.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, MODEL_ARCH
from safetensors.torch import load_file

ARCHITECTURES = {
    "MixtralForCausalLM": MODEL_ARCH.LLAMA,
    "OlmoeForCausalLM": MODEL_ARCH.OLMOE,
    "Qwen2MoeForCausalLM": MODEL_ARCH.QWEN2MOE,
    "Qwen3MoeForCausalLM": MODEL_ARCH.QWEN3MOE,
    "DeepseekForCausalLM": MODEL_ARCH.DEEPSEEK,
    "DeepseekV2ForCausalLM": MODEL_ARCH.DEEPSEEK2,
    "DeepseekV3ForCausalLM": MODEL_ARCH.DEEPSEEK2,
    "GptOssForCausalLM": MODEL_ARCH.GPT_OSS,
    "GraniteMoeForCausalLM": MODEL_ARCH.GRANITE_MOE,
    "GraniteMoeSharedForCausalLM": MODEL_ARCH.GRANITE_MOE,
    "Glm4MoeForCausalLM": MODEL_ARCH.GLM4_MOE,
    "Dots1ForCausalLM": MODEL_ARCH.DOTS1,
    "Ernie4_5_MoeForCausalLM": MODEL_ARCH.ERNIE4_5_MOE,
    "MiniMaxM2ForCausalLM": MODEL_ARCH.MINIMAXM2,
    "HunYuanMoEV1ForCausalLM": MODEL_ARCH.HUNYUAN_MOE,
    "Llama4ForCausalLM": MODEL_ARCH.LLAMA4,
    "PhimoeForCausalLM": MODEL_ARCH.PHIMOE,
}
PERMUTED = (MODEL_ARCH.LLAMA, MODEL_ARCH.GRANITE_MOE, MODEL_ARCH.DEEPSEEK)
DEEPSEEK_ROUTER = (MODEL_ARCH.DEEPSEEK2, MODEL_ARCH.GLM4_MOE, MODEL_ARCH.DOTS1)


def add_metadata(w, arch, c, whole_kv_b):
    first = lambda *keys: next((c[k] for k in keys if c.get(k) is not None), None)
    heads = c["num_attention_heads"]
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c.get("intermediate_size_mlp") or c["intermediate_size"])
    w.add_head_count(heads)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    rope = dict(c.get("rope_parameters") or c.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type"))
    rope.setdefault("rope_theta", c.get("rope_theta") or 10000.0)
    theta = rope["rope_theta"]
    if rope.get("alpha"):  # a fixed stretch, put into theta
        dim = c.get("head_dim") or c["hidden_size"] // heads
        theta *= rope["alpha"] ** (dim / (dim - 2))
    w.add_rope_freq_base(theta)
    if rope.get("rope_type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "longrope":
        add_longrope(w, c, rope)
    if rope.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c, rope))
    if rope.get("rope_type") == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope.get("attention_factor") is not None:
            w.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        if rope.get("beta_fast") is not None:
            w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        if rope.get("beta_slow") is not None:
            w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    w.add_expert_count(first("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"))
    w.add_expert_used_count(first("num_experts_per_tok", "moe_k", "moe_topk"))
    latent = arch == MODEL_ARCH.DEEPSEEK2
    if not latent:
        w.add_head_count_kv(c["num_key_value_heads"])
        if c.get("head_dim"):
            w.add_key_length(c["head_dim"])
            w.add_value_length(c["head_dim"])
    if arch == MODEL_ARCH.LLAMA:
        w.add_vocab_size(c["vocab_size"])
        w.add_rope_dimension_count(c.get("head_dim") or c["hidden_size"] // heads)
    if arch in (MODEL_ARCH.QWEN2MOE, MODEL_ARCH.QWEN3MOE):
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if arch == MODEL_ARCH.QWEN2MOE:
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if arch in (MODEL_ARCH.QWEN3MOE, MODEL_ARCH.OLMOE) and c["norm_topk_prob"] != (arch == MODEL_ARCH.QWEN3MOE):
        w.add_expert_weights_norm(c["norm_topk_prob"])  # not what the known models have: converters leave it out
    if arch == MODEL_ARCH.GPT_OSS:
        w.add_sliding_window(c["sliding_window"])
        w.add_expert_feed_forward_length(c["intermediate_size"])
    if c.get("clip_qkv"):
        w.add_clamp_kqv(c["clip_qkv"])
    add_more_metadata(w, arch, c, rope)
    if latent:
        add_latent_metadata(w, c, rope, whole_kv_b)
    if arch == MODEL_ARCH.DEEPSEEK:
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
        w.add_expert_weights_scale(1.0)
        w.add_expert_shared_count(c["n_shared_experts"])
    if arch in DEEPSEEK_ROUTER:
        add_deepseek_router(w, c)


def llama3_factors(c, rope):
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    old = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    out = []
    for i in range(0, dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / dim)
        smooth = (old / wave - low) / (high - low)
        out.append(1 if wave < old / high else factor if wave > old / low else 1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def add_longrope(w, c, rope):
    old = rope.get("original_max_position_embeddings") or c["original_max_position_embeddings"]
    scale = c["max_position_embeddings"] / old
    w.add_rope_scaling_orig_ctx_len(old)
    w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(old))))
    w.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
    w.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))


def add_more_metadata(w, arch, c, rope):
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    if arch == MODEL_ARCH.GRANITE_MOE:
        w.add_rope_dimension_count(head_dim)
        w.add_attention_scale(c["attention_multiplier"])
        w.add_embedding_scale(c["embedding_multiplier"])
        w.add_residual_scale(c["residual_multiplier"])
        w.add_logit_scale(c["logits_scaling"])
        if c.get("shared_intermediate_size"):
            w.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])
    if arch in (MODEL_ARCH.GLM4_MOE, MODEL_ARCH.MINIMAXM2):
        w.add_rope_dimension_count(c.get("rotary_dim") or int(head_dim * (rope.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 1)))
    if arch in (MODEL_ARCH.GLM4_MOE, MODEL_ARCH.DOTS1, MODEL_ARCH.ERNIE4_5_MOE):
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if arch == MODEL_ARCH.MINIMAXM2:
        w.add_expert_feed_forward_length(c["intermediate_size"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == MODEL_ARCH.ERNIE4_5_MOE:
        w.add_interleave_moe_layer_step(c["moe_layer_interval"])
        w.add_leading_dense_block_count(c["moe_layer_start_index"])
        w.add_expert_shared_count(c["moe_num_shared_experts"])
    if arch == MODEL_ARCH.LLAMA4:
        w.add_rope_dimension_count(head_dim)
        w.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
        w.add_expert_feed_forward_length(c["intermediate_size"])
        w.add_sliding_window(c["attention_chunk_size"])
    if arch == MODEL_ARCH.PHIMOE:
        w.add_sliding_window(c.get("sliding_window") or 0)


def add_deepseek_router(w, c):
    w.add_leading_dense_block_count(c["first_k_dense_replace"])
    w.add_expert_shared_count(c["n_shared_experts"])
    w.add_expert_weights_scale(c["routed_scaling_factor"])
    if c.get("norm_topk_prob"):
        w.add_expert_weights_norm(True)
    if c.get("n_group"):
        w.add_expert_group_count(c["n_group"])
        w.add_expert_group_used_count(c["topk_group"])
    softmax = c["architectures"][0] == "DeepseekV2ForCausalLM"
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX if softmax else gguf.ExpertGatingFuncType.SIGMOID)


def add_latent_metadata(w, c, rope, whole_kv_b):
    nope, turning, value, rank = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
    w.add_vocab_size(c["vocab_size"])
    if c.get("q_lora_rank"):
        w.add_q_lora_rank(c["q_lora_rank"])
    w.add_kv_lora_rank(rank)
    w.add_head_count_kv(c["num_attention_heads"] if whole_kv_b else 1)
    w.add_key_length(nope + turning if whole_kv_b else rank + turning)
    w.add_value_length(value if whole_kv_b else rank)
    if not whole_kv_b:
        w.add_key_length_mla(nope + turning)
        w.add_value_length_mla(value)
    w.add_rope_dimension_count(turning)
    w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if rope.get("mscale_all_dim"):
        w.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])


def permute(t, heads):
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def stacked_experts(tensors):
    """Experts that are one tensor each, as one tensor of all."""
    out, groups = {}, {}
    for name, t in tensors.items():
        before, found, after = name.partition(".experts.")
        number, dot, rest = after.partition(".")
        if found and dot and number.isdigit():
            groups.setdefault(f"{before}.experts.{rest}", {})[int(number)] = t
        else:
            out[name] = t
    for name, group in groups.items():
        out[name] = torch.stack([group[i] for i in range(len(group))])
    return out


def rewrite(arch, c, name, t, whole_kv_b):
    """The tensors that one of the checkpoint becomes, under Hugging Face's names."""
    heads, kv_heads = c["num_attention_heads"], c.get("num_key_value_heads")
    if arch in PERMUTED and name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
        t = permute(t, heads if ".q_proj." in name else kv_heads)
    if name.endswith("kv_b_proj.weight") and not whole_kv_b:
        k, v = t.view(heads, -1, t.shape[-1]).split([c["qk_nope_head_dim"], c["v_head_dim"]], dim=1)
        return {name.replace("kv_b", "k_b"): k.transpose(1, 2), name.replace("kv_b", "v_b"): v}
    if name.endswith("e_score_correction_bias"):
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
    if name.endswith("self_attn.sinks"):
        name += ".weight"
    if name.endswith("experts.gate_up_proj") and arch == MODEL_ARCH.GPT_OSS:  # [experts, in, out], rows of both interleaved
        t = t.transpose(-1, -2)
        return {name.replace("gate_up_proj", "gate_proj.weight"): t[:, ::2], name.replace("gate_up_proj", "up_proj.weight"): t[:, 1::2]}
    if name.endswith("experts.gate_up_proj_bias"):
        return {name.replace("gate_up_proj_bias", "gate_proj.bias"): t[..., ::2], name.replace("gate_up_proj_bias", "up_proj.bias"): t[..., 1::2]}
    if name.endswith(("block_sparse_moe.input_linear.weight", "shared_mlp.input_linear.weight")):  # Granite: both halves in one
        gate, up = t.chunk(2, dim=-2)
        kind, layer = ("exps" if "block_sparse" in name else "shexp"), name.split(".")[2]
        return {f"blk.{layer}.ffn_gate_{kind}.weight": gate, f"blk.{layer}.ffn_up_{kind}.weight": up}
    if name.endswith("experts.gate_up_proj"):
        t = t.transpose(-1, -2) if arch == MODEL_ARCH.LLAMA4 else t
        gate, up = t.chunk(2, dim=1)
        return {name.replace("gate_up_proj", "gate_proj.weight"): gate, name.replace("gate_up_proj", "up_proj.weight"): up}
    if name.endswith("experts.down_proj_bias"):
        name = name.replace("down_proj_bias", "down_proj.bias")
    elif name.endswith("experts.down_proj"):
        t = t.transpose(-1, -2) if arch in (MODEL_ARCH.GPT_OSS, MODEL_ARCH.LLAMA4) else t
        name += ".weight"
    return {name: t}


def type_of(name, data, wanted):
    if data.ndim < 2 or "ffn_gate_inp" in name or data.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] != 0:
        return GGMLQuantizationType.F32
    return wanted


def convert(directory, out, wanted=GGMLQuantizationType.F32, whole_kv_b=False, split=0, extra=None):
    directory = pathlib.Path(directory)
    c = json.loads((directory / "config.json").read_text())
    arch = ARCHITECTURES[c["architectures"][0]]
    w = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[arch], split_max_tensors=split)
    add_metadata(w, arch, c, whole_kv_b)
    if extra:
        extra(w)
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors.update(load_file(file))
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    for name, t in stacked_experts(tensors).items():
        for new, part in rewrite(arch, c, name, t, whole_kv_b).items():
            mapped = new if new.startswith("blk.") else names.get_name(new, try_suffixes=(".weight", ".bias"))
            assert mapped is not None, new
            data = np.ascontiguousarray(part.to(torch.float32).squeeze().numpy())
            kind = type_of(mapped, data, wanted(mapped) if callable(wanted) else wanted)
            w.add_tensor(mapped, gguf.quants.quantize(data, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory")
    p.add_argument("out")
    p.add_argument("--type", default="F32")
    p.add_argument("--whole-kv-b", action="store_true")
    p.add_argument("--split", type=int, default=0)
    a = p.parse_args()
    convert(a.directory, a.out, GGMLQuantizationType[a.type], a.whole_kv_b, a.split)
