"""Makes models/*.gguf, some checkpoints of ../models as the package `gguf` writes them (BF16, as they are stored), and tiny.gguf and tiny.json: a
random DeepSeek-V3 with tokenizer and chat template, experts in Q8_0 and the rest in F32, and what transformers computes with the dequantised
weights. Needs what convert.py needs, and transformers and tokenizers."""
import json
import pathlib
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from convert import convert

HERE = pathlib.Path(__file__).parent
MERGES = ["t h", "th e", "Ġ the", "e x", "p e", "r t"]
SPECIAL = ["<bos>", "<eos>", "<user>", "<assistant>"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TEXTS = ["the expert", " the\n", "Grüße, 1234!", "<user>the"]


def vocabulary():
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [m.replace(" ", "") for m in MERGES]
    return tokens + SPECIAL


def reference_tokenizer(tokens):
    merges = [tuple(m.split(" ")) for m in MERGES]
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(SPECIAL)
    return t


def model(n_vocab):
    torch.manual_seed(7)
    config = DeepseekV3Config(
        vocab_size=n_vocab, hidden_size=32, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, n_shared_experts=1, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=2, first_k_dense_replace=1,
        q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, max_position_embeddings=128,
        initializer_range=0.2, rope_theta=10000.0, bos_token_id=262, eos_token_id=263, tie_word_embeddings=False)
    m = DeepseekV3ForCausalLM(config).eval()
    for name, p in m.named_parameters():
        if name.endswith("norm.weight"):
            p.data = 1 + 0.1 * torch.randn_like(p)
    for name, b in m.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(0.1 * torch.randn_like(b))
    # As they will be read: experts through Q8_0 and back.
    for name, p in m.named_parameters():
        if ".experts." in name:
            kind = GGMLQuantizationType.Q8_0
            p.data = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(p.data.numpy(), kind), kind).copy())
    return m


# What the golden checkpoints do not cover: other architectures, one kv head, tied embeddings, scalings of the rotary embedding.
MODELS = [
    "deepseek_moe", "deepseek_v2_groups_yarn", "deepseek_v3_one_group", "ernie4_5_moe_every_second", "glm4_moe_half_rotary", "glm4_moe_groups_odd_rotary",
    "gpt_oss_one_kv_head", "granitemoe_one_kv_head_tied", "granitemoeshared", "hunyuan_v1_moe_alpha", "minimax_m2", "mixtral_linear_rope",
    "mixtral_one_kv_head_tied", "olmoe_grouped_queries_clipped", "qwen3_moe_llama3_rope", "qwen3_moe_yarn",
]


def main():
    (HERE / "models").mkdir(exist_ok=True)
    for name in MODELS:
        convert(HERE.parent / "models" / name, HERE / "models" / f"{name}.gguf", GGMLQuantizationType.BF16, whole_kv_b=name == "deepseek_v3_one_group")
    tokens = vocabulary()
    m = model(len(tokens))
    with tempfile.TemporaryDirectory() as directory:
        state = {n: t.contiguous() for n, t in m.state_dict().items()}
        save_file(state, f"{directory}/model.safetensors")
        config = m.config.to_dict() | {"architectures": ["DeepseekV3ForCausalLM"]}
        pathlib.Path(directory, "config.json").write_text(json.dumps(config))

        def tokenizer(w):
            w.add_tokenizer_model("gpt2")
            w.add_tokenizer_pre("gpt-2")
            w.add_token_list(tokens)
            w.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)) + [gguf.TokenType.CONTROL] * len(SPECIAL))
            w.add_token_merges(MERGES)
            w.add_bos_token_id(tokens.index("<bos>"))
            w.add_eos_token_id(tokens.index("<eos>"))
            w.add_add_bos_token(True)
            w.add_chat_template(TEMPLATE)

        convert(directory, HERE / "tiny.gguf", lambda name: GGMLQuantizationType.Q8_0 if "_exps" in name else GGMLQuantizationType.F32,
                extra=tokenizer)
    t = reference_tokenizer(tokens)
    ids = [262] + [int(i) for i in np.random.default_rng(3).integers(0, 256, 23)]
    with torch.no_grad():
        logits = m(torch.tensor([ids])).logits[0]
        greedy = list(ids)
        for _ in range(16):
            greedy.append(int(m(torch.tensor([greedy])).logits[0, -1].argmax()))
    doc = {
        "input_ids": ids,
        "last_logits": [float(x) for x in logits[-1]],
        "greedy": greedy[len(ids):],
        "texts": [{"text": x, "ids": t.encode(x, add_special_tokens=False).ids} for x in TEXTS],
        "chat": {"messages": [{"role": "user", "content": "the expert"}], "ids": t.encode("<bos><user>the expert<assistant>", add_special_tokens=False).ids},
    }
    (HERE / "tiny.json").write_text(json.dumps(doc, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
