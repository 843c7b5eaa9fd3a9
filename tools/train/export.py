"""A trained model as a Hugging Face directory that Patchbay runs (configs/architectures/reasoner.toml reads its config.json)."""
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

import routers
from model import Experts

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]


def config(model):
    s = model.shape
    of_routers = model.routers()
    return {
        "architectures": ["ReasonerForCausalLM"],
        "model_type": "reasoner",
        "vocab_size": s.n_vocab,
        "hidden_size": s.d_model,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "num_key_value_heads": s.n_kv_heads,
        "head_dim": s.head_dim,
        "intermediate_size": model.dense_width,
        "moe_intermediate_size": s.d_expert,
        "num_experts": routers.N_EXPERTS,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1 if of_routers else s.n_layers,
        "hidden_act": "silu",
        "rms_norm_eps": s.norm_eps,
        "rope_theta": s.rope_theta,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
        "router": of_routers[0].settings if of_routers else None,
    }


def views(model):
    """The model's parameters by the names that they have in a file."""
    t = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm, "lm_head.weight": model.head}
    for i, layer in enumerate(model.layers):
        at, a, f = f"model.layers.{i}", layer.attention, layer.ffn
        t |= {f"{at}.input_layernorm.weight": a.norm, f"{at}.post_attention_layernorm.weight": layer.norm}
        t |= {f"{at}.self_attn.{r}_proj.weight": getattr(a, r) for r in "qkvo"}
        t |= {f"{at}.self_attn.{r}_norm.weight": getattr(a, f"{r}_norm") for r in "qk"}
        dense, name = (f.shared, f"{at}.mlp.shared_experts") if isinstance(f, Experts) else (f, f"{at}.mlp")
        gate, up = dense.gate_up.chunk(2)
        t |= {f"{name}.gate_proj.weight": gate, f"{name}.up_proj.weight": up, f"{name}.down_proj.weight": dense.down}
        if isinstance(f, Experts):
            t |= {f"{at}.mlp.experts.gate_up_proj": f.gate_up, f"{at}.mlp.experts.down_proj": f.down}
            t |= {f"{at}.mlp.gate.{name}": tensor for name, tensor in f.router.tensors().items()}
    return {name: x.detach() for name, x in t.items()}


def stored(name, x):
    """Matrices in bf16; what a router selects by (a bias, a table of ids) stays exact, in f32."""
    return x.float() if name.endswith(("_bias", "token_experts")) else x.to(torch.bfloat16)


def load(model, directory):
    """The inverse of export."""
    own = views(model)
    for name, x in load_file(pathlib.Path(directory) / "model.safetensors").items():
        own[name].copy_(x)


def export(model, tokenizer_dir, out, record):
    """`record`: what training.json says of how the model came about."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: stored(n, x).contiguous().cpu() for n, x in views(model).items()}, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config(model), indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(pathlib.Path(tokenizer_dir) / name, out / name)
