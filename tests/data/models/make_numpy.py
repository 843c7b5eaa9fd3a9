#!/usr/bin/env python3
"""Makes tiny checkpoints of models that neither transformers nor tools/train has, and what their formulas give on them in float64.

    python3 make_numpy.py         (needs numpy, safetensors and gguf; building and testing the project do not)

All are Qwen3-MoE but for the feed-forward; that much is first held against a checkpoint that transformers has computed.
"""
import json
import pathlib
import struct

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
N_PROMPT, N_GREEDY = 22, 8


def load(folder):
    """The checkpoint's tensors by name, which are f32 or bf16."""
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, t in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        raw = data[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, np.float32)
        tensors[name] = values.reshape(t["shape"]).astype(np.float64)
    return tensors


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def feed_forward(w, name, x):
    gate = w[f"{name}.gate_proj.weight"] @ x
    return w[f"{name}.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (w[f"{name}.up_proj.weight"] @ x))


def attention(c, w, name, x):
    n, d = len(x), c["head_dim"]
    q, k, v = (x @ w[f"{name}.{p}_proj.weight"].T + w.get(f"{name}.{p}_proj.bias", 0) for p in "qkv")
    q, k, v = q.reshape(n, -1, d), k.reshape(n, -1, d), v.reshape(n, -1, d)
    q, k = norm(q, w[f"{name}.q_norm.weight"], c["rms_norm_eps"]), norm(k, w[f"{name}.k_norm.weight"], c["rms_norm_eps"])
    angle = np.arange(n)[:, None] / c["rope_parameters"]["rope_theta"] ** (np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def turned(y):
        a, b = y[..., : d // 2], y[..., d // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    q, k = turned(q), turned(k)
    out = np.zeros_like(q)
    per_kv_head = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h // per_kv_head].T / np.sqrt(d)
        out[:, h] = softmax(np.where(np.tri(n, dtype=bool), scores, -np.inf)) @ v[:, h // per_kv_head]
    return out.reshape(n, -1) @ w[f"{name}.o_proj.weight"].T + w.get(f"{name}.o_proj.bias", 0)


def route(c, l):
    """The k chosen experts of a token, best first, their weights, and the least distance of scores that decide."""
    k = c["num_experts_per_tok"]
    if c.get("router", {}).get("plugin") == "expert_attention":  # Yuan 2.0-M32 (arXiv 2405.17976): the experts attend to each other
        q, keys, values = np.split(l, 3)
        l = softmax(np.outer(q, keys)) @ values
    ids = np.argsort(-l, kind="stable")
    weights = softmax(l)[ids[:k]]
    return ids[:k], weights / weights.sum(), np.min(-np.diff(l[ids[: k + 1]]))


def experts(c, w, name, x, gaps):
    """One token. GroveMoE (arXiv 2508.07785): beside expert e stands that of its group, e // g, with the same weight and a small factor."""
    group, small = c.get("num_experts_per_group", 0), c.get("chunk_scale", 0.05)
    ids, weights, gap = route(c, w[f"{name}.gate.weight"] @ x)
    gaps.append(gap)
    out = sum(s * feed_forward(w, f"{name}.experts.{e}", x) for s, e in zip(weights, ids))
    if group:
        out = out + small * sum(s * feed_forward(w, f"{name}.chunk_experts.{e // group}", x) for s, e in zip(weights, ids))
    if c.get("num_shared_experts", 0):
        out = out + feed_forward(w, f"{name}.shared_experts", x)
    return out, weights, ids


def is_dense(c, layer):
    return layer in c.get("mlp_only_layers", []) or layer < c.get("first_k_dense_replace", 0)


def forward(c, w, ids):
    """Logits [n, n_vocab], routes, and the least distance between router logits that decide."""
    x = w["model.embed_tokens.weight"][ids]
    routes, gaps = {}, []
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        x = x + attention(c, w, f"{name}.self_attn", norm(x, w[f"{name}.input_layernorm.weight"], c["rms_norm_eps"]))
        h = norm(x, w[f"{name}.post_attention_layernorm.weight"], c["rms_norm_eps"])
        if is_dense(c, layer):
            x = x + np.array([feed_forward(w, f"{name}.mlp", row) for row in h])
            continue
        rows = [experts(c, w, f"{name}.mlp", row, gaps) for row in h]
        x = x + np.array([r[0] for r in rows])
        routes[f"layer_{layer:03}"] = [None, [[round(float(v), 7) for v in r[1]] for r in rows], [[int(e) for e in r[2]] for r in rows]]
    return norm(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w["lm_head.weight"].T, routes, min(gaps)


def agrees_with_transformers():
    folder = HERE / "qwen3_moe_wide_heads_bias"
    expected = json.loads((folder / "expected.json").read_text())
    logits, routes, _ = forward(json.loads((folder / "config.json").read_text()), load(folder), expected["input_ids"])
    want = np.load(folder / "expected_logits.npy")
    assert np.abs(logits - want).max() <= 1e-5 * np.abs(want).max(), np.abs(logits - want).max()
    assert {k: r[2] for k, r in routes.items()} == {k: r[2] for k, r in expected["routes"].items()}


def random_weights(c, rng):
    d, heads, kv, hd = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    w = {}

    def add(name, *shape, size=1.3):
        w[name + ".weight"] = (rng.normal(size=shape) * size / np.sqrt(shape[-1])).astype(np.float32)

    def add_norm(name, n):
        w[name + ".weight"] = (1 + 0.2 * rng.normal(size=n)).astype(np.float32)

    def add_feed_forward(name, width):
        add(f"{name}.gate_proj", width, d), add(f"{name}.up_proj", width, d), add(f"{name}.down_proj", d, width)

    add("model.embed_tokens", c["vocab_size"], d, size=np.sqrt(d))
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        add(f"{name}.self_attn.q_proj", heads * hd, d), add(f"{name}.self_attn.k_proj", kv * hd, d)
        add(f"{name}.self_attn.v_proj", kv * hd, d), add(f"{name}.self_attn.o_proj", d, heads * hd)
        add_norm(f"{name}.self_attn.q_norm", hd), add_norm(f"{name}.self_attn.k_norm", hd)
        add_norm(f"{name}.input_layernorm", d), add_norm(f"{name}.post_attention_layernorm", d)
        if is_dense(c, layer):
            add_feed_forward(f"{name}.mlp", c["intermediate_size"])
            continue
        rows = 3 * c["num_experts"] if "router" in c else c["num_experts"]
        add(f"{name}.mlp.gate", rows, d, size=2.5)
        for e in range(c["num_experts"]):
            add_feed_forward(f"{name}.mlp.experts.{e}", c["moe_intermediate_size"])
        if c.get("num_shared_experts", 0):
            add_feed_forward(f"{name}.mlp.shared_experts", c["num_shared_experts"] * c["moe_intermediate_size"])
        if "num_experts_per_group" in c:
            for e in range(c["num_experts"] // c["num_experts_per_group"]):
                add_feed_forward(f"{name}.mlp.chunk_experts.{e}", c["parallel_expert_intermediate_size"])
    add_norm("model.norm", d)
    add("lm_head", c["vocab_size"], d)
    return w


def make(name, config, shows):
    for seed in range(1, 400):
        rng = np.random.default_rng(seed)
        w = random_weights(config, rng)
        exact = {k: v.astype(np.float64) for k, v in w.items()}
        ids = [int(i) for i in rng.integers(2, config["vocab_size"], N_PROMPT)]
        logits, routes, gap = forward(config, exact, ids)
        text, margin = list(ids), np.inf
        while len(text) < N_PROMPT + N_GREEDY:
            last, _, _ = forward(config, exact, text)
            best = np.sort(last[-1])[-2:]
            margin = min(margin, (best[1] - best[0]) / np.abs(last[-1]).max())
            text.append(int(last[-1].argmax()))
        if gap > 2e-3 and margin > 4e-3 and shows(config, exact, ids, logits, routes):
            break
    else:
        raise SystemExit(f"{name}: no seed gives a clear case")
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    save_file(w, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=0) + "\n")
    np.save(folder / "expected_logits.npy", logits.astype(np.float32))
    greedy = text[N_PROMPT:]
    (folder / "expected.json").write_text(json.dumps({"input_ids": ids, "greedy": greedy, "routes": routes}, separators=(",", ":")) + "\n")
    print(f"{name}: seed {seed}, gap {gap:.1e}, margin {margin:.1e}")


def write_grove_gguf(name):
    """The same checkpoint as llama.cpp's converter has it, by the names and keys of the package gguf."""
    c, tensors = json.loads((HERE / name / "config.json").read_text()), load(HERE / name)
    w = gguf.GGUFWriter(HERE.parent / f"gguf/models/{name}.gguf", "grovemoe")
    w.add_block_count(c["num_hidden_layers"]), w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"]), w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"]), w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"]), w.add_value_length(c["head_dim"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"]), w.add_rope_freq_base(c["rope_parameters"]["rope_theta"])
    w.add_expert_count(c["num_experts"]), w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    w.add_expert_chunk_feed_forward_length(c["parallel_expert_intermediate_size"])
    w.add_experts_per_group(c["num_experts_per_group"]), w.add_expert_group_scale(0.05)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GROVEMOE, c["num_hidden_layers"])
    stacked = {}
    for key, t in tensors.items():
        parts = key.split("experts.")
        if len(parts) == 2:
            number, rest = parts[1].split(".", 1)
            stacked.setdefault(f"{parts[0]}experts.{rest}", {})[int(number)] = t
        else:
            stacked[key] = t
    for key, t in stacked.items():
        t = np.stack([t[i] for i in range(len(t))]) if isinstance(t, dict) else t
        w.add_tensor(names.get_name(key, try_suffixes=(".weight",)), t.astype(np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()


def chunks_meet_and_matter(config, w, ids, logits, routes):
    without, _, _ = forward(config | {"num_experts_per_group": 0}, w, ids)
    group = config["num_experts_per_group"]
    meet = any(len({e // group for e in row}) < len(row) for r in routes.values() for row in r[2])
    return meet and np.abs(without - logits).max() > 0.05 * np.abs(logits).max()


COMMON = {"vocab_size": 56, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
          "moe_intermediate_size": 10, "intermediate_size": 22, "hidden_act": "silu", "rms_norm_eps": 1e-6,
          "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "max_position_embeddings": 96, "tie_word_embeddings": False,
          "bos_token_id": 0, "eos_token_id": 1, "dtype": "float32"}

agrees_with_transformers()
make("reasoner_expert_attention", COMMON | {
    "architectures": ["ReasonerForCausalLM"], "model_type": "reasoner", "num_experts": 7, "num_experts_per_tok": 2, "num_shared_experts": 1,
    "first_k_dense_replace": 1, "router": {"plugin": "expert_attention", "k": 2}}, lambda *_: True)
make("grove_moe", COMMON | {
    "architectures": ["GroveMoeForCausalLM"], "model_type": "grove_moe", "num_experts": 9, "num_experts_per_tok": 4, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "num_experts_per_group": 3, "parallel_expert_intermediate_size": 7}, chunks_meet_and_matter)
write_grove_gguf("grove_moe")
