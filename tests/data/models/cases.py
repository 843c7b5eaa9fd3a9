"""The cases: a name, the model and what is awkward about it. Keys of a case:

    model_type, config   what transformers.AutoConfig.for_model takes; `class` where the model is not a causal language model by itself
    part                 the submodule that computes the logits, where it is not the model
    spelling             4: config.json as transformers 4 wrote it
    shard                weights in files of at most this size
    layout               "memory": the tensors as transformers 5 has them in memory (fused experts), not as it saves them
    quantise             of quantised.py
    drop, extra          keys of config.json taken out and put in
    bias                 added to the routers' selection bias
    more_tensors         what else lies in the checkpoint and is not used
"""
import torch

import quantised

SMALL = {"vocab_size": 56, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 96, "bos_token_id": 0, "eos_token_id": 1}


def stored_input_first(name):
    """Whether the experts of this parameter are [experts, in, out]."""
    return "feed_forward" in name or "transposed" in name


def rope(kind="default", theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


def case(model_type, config, **more):
    return {"model_type": model_type, "config": SMALL | config, **more}


MIXTRAL = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 12,
           "head_dim": None, "sliding_window": None}
QWEN2 = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 10,
         "intermediate_size": 22, "shared_expert_intermediate_size": 14, "decoder_sparse_step": 1}
QWEN3 = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "num_experts": 6, "num_experts_per_tok": 2,
         "moe_intermediate_size": 10, "intermediate_size": 22, "decoder_sparse_step": 1}
OLMOE = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 10}
DEEPSEEK = {"num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 10,
            "intermediate_size": 22, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 12, "q_lora_rank": 14,
            "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
GPT_OSS = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4,
           "num_experts_per_tok": 2, "intermediate_size": 32, "sliding_window": 7, "initial_context_length": 32}
GRANITE = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 12,
           "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.5}
GLM4 = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 10, "intermediate_size": 22, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 1.7, "norm_topk_prob": True}
ERNIE = {"num_attention_heads": 4, "num_key_value_heads": 2, "moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 10,
         "intermediate_size": 22, "moe_num_shared_experts": 1}
HUNYUAN = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "num_experts": 5, "moe_topk": 2, "intermediate_size": 12}
LLAMA4 = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "num_local_experts": 4, "num_experts_per_tok": 1,
          "intermediate_size": 12, "intermediate_size_mlp": 22, "num_hidden_layers": 4, "attention_chunk_size": 7, "floor_scale": 5,
          "attn_scale": 0.4, "no_rope_layer_interval": 3}
PHIMOE = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 12,
          "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.4, "sliding_window": None}
LONGROPE = {"short_factor": [1.0, 1.3], "long_factor": [1.5, 4.0], "short_mscale": 1.2, "long_mscale": 1.4}
YARN = {"factor": 4.0, "original_max_position_embeddings": 24}

CASES = {
    "mixtral_one_expert_a_token": case("mixtral", MIXTRAL | {"num_experts_per_tok": 1}),
    "mixtral_all_experts": case("mixtral", MIXTRAL | {"num_experts_per_tok": 5, "num_key_value_heads": 4}),
    "mixtral_one_kv_head_tied": case("mixtral", MIXTRAL | {"num_key_value_heads": 1, "tie_word_embeddings": True}, spelling=4),
    "mixtral_three_heads_window": case("mixtral", MIXTRAL | {"hidden_size": 18, "num_attention_heads": 3, "num_key_value_heads": 1,
                                                            "sliding_window": 5, "head_dim": 6}),
    "mixtral_fused_in_shards": case("mixtral", MIXTRAL | {"num_hidden_layers": 3}, shard="9KB", layout="memory"),
    "mixtral_odd_sizes": case("mixtral", MIXTRAL | {"vocab_size": 47, "hidden_size": 21, "num_attention_heads": 3, "num_key_value_heads": 3,
                                                   "head_dim": 10, "intermediate_size": 13, "num_local_experts": 7, "num_experts_per_tok": 3}),
    "mixtral_linear_rope": case("mixtral", MIXTRAL | {"rope_parameters": rope("linear", factor=3.0)}, spelling=4),
    "mixtral_dynamic_rope": case("mixtral", MIXTRAL | {"head_dim": 4, "rope_parameters": rope("dynamic", factor=2.0)}),
    "qwen2_moe_dense_in_the_middle": case("qwen2_moe", QWEN2 | {"num_hidden_layers": 4, "mlp_only_layers": [1, 2], "norm_topk_prob": True}),
    "qwen2_moe_sparse_step": case("qwen2_moe", QWEN2 | {"num_hidden_layers": 4, "decoder_sparse_step": 2, "norm_topk_prob": False,
                                                       "tie_word_embeddings": True}, spelling=4),
    "qwen2_moe_window_from_layer_1": case("qwen2_moe", QWEN2 | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 6,
                                                               "max_window_layers": 1}),
    "qwen3_moe_wide_heads_bias": case("qwen3_moe", QWEN3 | {"head_dim": 10, "attention_bias": True, "norm_topk_prob": True,
                                                           "mlp_only_layers": [1], "num_hidden_layers": 3}),
    "qwen3_moe_yarn": case("qwen3_moe", QWEN3 | {"rope_parameters": rope("yarn", 1e6, **YARN), "norm_topk_prob": False,
                                                "num_key_value_heads": 1}, spelling=4),
    "qwen3_moe_llama3_rope": case("qwen3_moe", QWEN3 | {"rope_parameters": rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0,
                                                                               high_freq_factor=4.0, original_max_position_embeddings=32),
                                                       "num_attention_heads": 3, "num_key_value_heads": 3}),
    "olmoe_one_expert_fused": case("olmoe", OLMOE | {"num_experts_per_tok": 1, "norm_topk_prob": True}, layout="memory"),
    "olmoe_grouped_queries_clipped": case("olmoe", OLMOE | {"num_key_value_heads": 2, "clip_qkv": 0.9, "norm_topk_prob": False}),
    "deepseek_v2_lite": case("deepseek_v2", DEEPSEEK | {"q_lora_rank": None, "num_hidden_layers": 3, "topk_method": "greedy",
                                                       "routed_scaling_factor": 1.5, "n_shared_experts": 2}),
    "deepseek_v2_groups_yarn": case("deepseek_v2", DEEPSEEK | {
        "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "routed_scaling_factor": 4.0,
        "rope_parameters": rope("yarn", mscale=0.707, mscale_all_dim=0.707, beta_fast=32, beta_slow=1, **YARN)}, spelling=4),
    "deepseek_v3_one_group": case("deepseek_v3", DEEPSEEK | {"n_group": 1, "topk_group": 1, "norm_topk_prob": False,
                                                            "num_experts_per_tok": 1, "rms_norm_eps": 1e-3}),
    "deepseek_v3_plain_queries_yarn": case("deepseek_v3", DEEPSEEK | {
        "q_lora_rank": None, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 4, "attention_bias": True, "rope_interleave": False,
        "num_hidden_layers": 3, "first_k_dense_replace": 2,
        "rope_parameters": rope("yarn", mscale=1.0, mscale_all_dim=1.0, beta_fast=32, beta_slow=1, **YARN)}),
    "gpt_oss_one_kv_head": case("gpt_oss", GPT_OSS | {"num_key_value_heads": 1, "hidden_size": 20, "intermediate_size": 14,
                                                     "num_experts_per_tok": 1, "num_hidden_layers": 3,
                                                     "rope_parameters": rope("yarn", 150000.0, truncate=False, beta_fast=32.0, beta_slow=1.0,
                                                                             **YARN)}),
    "gpt_oss_mxfp4": case("gpt_oss", GPT_OSS | {"rope_parameters": rope("yarn", 150000.0, truncate=False, **YARN)},
                          quantise=quantised.mxfp4, spelling=4),
    "deepseek_v3_fp8": case("deepseek_v3", DEEPSEEK | {"hidden_size": 132, "num_attention_heads": 2, "num_key_value_heads": 2,
                                                      "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 129,
                                                      "num_hidden_layers": 1, "first_k_dense_replace": 0, "kv_lora_rank": 130,
                                                      "q_lora_rank": 10, "n_group": 1, "topk_group": 1, "vocab_size": 40},
                            quantise=quantised.fp8,
                            extra={"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
                            more_tensors={"model.layers.1.eh_proj.weight": torch.zeros(4, 4), "model.layers.1.enorm.weight": torch.ones(4)}),
    "granitemoe_one_kv_head_tied": case("granitemoe", GRANITE | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "granitemoe_bias_all_experts": case("granitemoe", GRANITE | {"num_experts_per_tok": 5, "attention_bias": True}, layout="memory"),
    "granitemoeshared": case("granitemoeshared", GRANITE | {"shared_intermediate_size": 14}, spelling=4),
    "glm4_moe_half_rotary": case("glm4_moe", GLM4 | {"use_qk_norm": True, "attention_bias": True}, spelling=4),
    "glm4_moe_groups_odd_rotary": case("glm4_moe", GLM4 | {
        "n_group": 2, "topk_group": 1, "head_dim": 10, "first_k_dense_replace": 0,
        "rope_parameters": rope(partial_rotary_factor=0.5)}),
    "dots1_window": case("dots1", GLM4 | {"num_hidden_layers": 3, "n_shared_experts": 2, "sliding_window": 6, "max_window_layers": 1}),
    "minimax_m2": case("minimax_m2", MIXTRAL | {"head_dim": 8, "rotary_dim": 4}, spelling=4, extra={"rotary_dim": 4}),
    "phimoe": case("phimoe", PHIMOE),
    "phimoe_longrope_window": case("phimoe", PHIMOE | {"sliding_window": 9, "original_max_position_embeddings": 48,
                                                      "rope_parameters": rope("longrope", original_max_position_embeddings=48, **LONGROPE)}),
    "ernie4_5_moe": case("ernie4_5_moe", ERNIE | {"num_hidden_layers": 4, "moe_layer_start_index": 1, "moe_layer_end_index": 2,
                                                 "use_bias": True}),
    "ernie4_5_moe_every_second": case("ernie4_5_moe", ERNIE | {"moe_layer_start_index": 0, "moe_layer_interval": 2, "moe_k": 6,
                                                              "moe_num_shared_experts": 2, "tie_word_embeddings": False}, spelling=4),
    "hunyuan_v1_moe": case("hunyuan_v1_moe", HUNYUAN | {"moe_topk": [2, 2], "tie_word_embeddings": True}),
    "hunyuan_v1_moe_alpha": case("hunyuan_v1_moe", HUNYUAN | {"moe_topk": 1, "attention_bias": True,
                                                             "rope_parameters": rope("dynamic", alpha=50.0, factor=1.0)}, spelling=4),
    "llama4": case("llama4_text", LLAMA4),
    "llama4_dense_between_two_experts": case("llama4_text", LLAMA4 | {"interleave_moe_layer_step": 2, "num_experts_per_tok": 2,
                                                                     "use_qk_norm": False, "attention_bias": True}),
    "flex_olmo": case("flex_olmo", OLMOE | {"num_key_value_heads": 2, "pad_token_id": None}),
    "deepseek_v3_groups_negative_bias": case("deepseek_v3", DEEPSEEK | {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}, bias=-1.2),
    "llama4_beside_vision": case("llama4", {"text_config": SMALL | LLAMA4 | {"num_hidden_layers": 2, "num_local_experts": 3},
                                           "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                                                             "intermediate_size": 8, "image_size": 8, "patch_size": 4,
                                                             "vision_output_dim": 8, "projector_input_dim": 8, "projector_output_dim": 8}},
                                 **{"class": "Llama4ForConditionalGeneration"}, part="language_model"),
    "qwen3_vl_moe": case("qwen3_vl_moe", {"text_config": SMALL | QWEN3 | {"rope_parameters": rope(mrope_section=[1, 1, 1])},
                                         "vision_config": {"hidden_size": 8, "depth": 1, "num_heads": 2, "intermediate_size": 8,
                                                           "out_hidden_size": 16, "patch_size": 4, "num_position_embeddings": 4,
                                                           "deepstack_visual_indexes": [0]},
                                         "tie_word_embeddings": False},
                         **{"class": "Qwen3VLMoeForConditionalGeneration"}),
    "glm4_moe_lite": case("glm4_moe_lite", DEEPSEEK | {"num_hidden_layers": 3, "mlp_layer_types": ["sparse", "dense", "sparse"],
                                                      "n_group": 1, "topk_group": 1}),
    "exaone_moe": case("exaone_moe", GLM4 | {"num_hidden_layers": 3, "num_experts": 6, "num_shared_experts": 1, "sliding_window": 6,
                                            "sliding_window_pattern": 2}),
    "mistral4": case("mistral4", DEEPSEEK | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0,
                                            "rope_parameters": rope("yarn", mscale=1.0, mscale_all_dim=1.0, beta_fast=32.0, beta_slow=1.0,
                                                                    llama_4_scaling_beta=0.4, **(YARN | {"original_max_position_embeddings": 5}))},
                     **{"class": "Mistral4ForCausalLM"}),
    # Not among the library's models: the same function as a Qwen2-MoE whose shared expert's gate is always one half.
    "deepseek_moe": case("qwen2_moe", QWEN2 | {"num_hidden_layers": 3, "mlp_only_layers": [0], "qkv_bias": False, "norm_topk_prob": False,
                                              "shared_expert_intermediate_size": 20},
                         quantise=quantised.halved_shared_expert, drop=["num_experts", "mlp_only_layers", "qkv_bias", "decoder_sparse_step",
                                                                                        "shared_expert_intermediate_size", "layer_types"],
                         extra={"architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "n_routed_experts": 6,
                                "n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "scoring_func": "softmax"}),
    "solar_open": case("solar_open", GLM4 | {"n_shared_experts": 1}),
}
