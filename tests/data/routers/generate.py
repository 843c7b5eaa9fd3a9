#!/usr/bin/env python3
"""Writes golden.json: what each published router chooses for some logits.

Every case is computed in float64 by a function of its own that follows the model's public formula, not by one general router, so that the
options of our routers are checked and not mirrored. Needs numpy; run it only to change the cases:  python3 generate.py
"""
import json
import pathlib

import numpy as np


def softmax(l):
    e = np.exp(l - l.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(l):
    return 1 / (1 + np.exp(-l))


def best(c, k):
    """The k largest of a vector, best first, ties to the lower index."""
    return np.argsort(-c, kind="stable")[:k]


def clear(c, k, ties=False):
    """Whether float32 and float64 must agree on the choice: neighbours at the cut and above differ by more than rounding."""
    s = np.sort(c)[::-1]
    s = s[np.isfinite(s)]
    gap = s[:k] - np.append(s, -np.inf)[1 : k + 1]
    return ties or bool((gap > 1e-5 * np.maximum(1e-3, np.abs(s[:k]))).all())


# --- one function a model: logits [E], bias [E] or None -> ids, weights ---------------------------------------------------------------


def mixtral(l, b, k):
    s = softmax(l)
    i = best(s, k)
    return i, s[i] / s[i].sum(), s


def as_is(l, b, k):
    s = softmax(l)
    i = best(s, k)
    return i, s[i], s


def top_k_then_softmax(l, b, k):
    c = l if b is None else l + b
    i = best(c, k)
    return i, softmax(c[i]), c


def llama4(l, b, k):
    i = best(l, k)
    return i, sigmoid(l[i]), l


def group_limited(c, group_scores, groups, top_groups, fill):
    kept = np.zeros(groups, bool)
    kept[best(group_scores, top_groups)] = True
    return np.where(np.repeat(kept, len(c) // groups), c, fill)


def deepseek_v2(l, b, k, groups, top_groups, scale, top2=False):
    s = softmax(l)
    by_group = s.reshape(groups, -1)
    g = np.sort(by_group, 1)[:, -2:].sum(1) if top2 else by_group.max(1)
    assert clear(g, top_groups)
    i = best(group_limited(s, g, groups, top_groups, 0.0), k)
    return i, s[i] * scale, s


def deepseek_v3(l, b, k, groups, top_groups, scale, fill=0.0):
    s = sigmoid(l)
    c = s + b
    g = np.sort(c.reshape(groups, -1), 1)[:, -2:].sum(1)
    assert clear(g, top_groups)
    m = group_limited(c, g, groups, top_groups, fill)
    i = best(m, k)
    return i, s[i] / (s[i].sum() + 1e-20) * scale, None if fill == 0.0 else m


def biased_sigmoid(l, b, k, scale, eps=1e-20, clamp=None):
    s = sigmoid(l)
    i = best(s + b, k)
    total = s[i].sum() + eps if clamp is None else max(s[i].sum(), clamp)
    return i, s[i] / total * scale, s + b


def ernie(l, b, k):
    s = softmax(l)
    i = best(s + b, k)
    return i, s[i] / max(s[i].sum(), 1e-12), s + b


def longcat(l, b, k, scale):
    s = softmax(l)
    i = best(s + b, k)
    return i, s[i] * scale, s + b


def deepseek_v4(l, b, k, scale):
    s = np.sqrt(np.log1p(np.exp(l)))
    i = best(s + b, k)
    return i, s[i] / max(s[i].sum(), 1e-20) * scale, s + b


def phi_sparse_mixer(l, b, k, eps):
    left = l.copy()
    ids, weights = [], []
    for _ in range(k):
        top = left.max()
        at = int(left.argmax())
        factor = np.maximum(np.abs(l), top)
        masked = np.where((top - l) / factor > 2 * eps, -np.inf, left)
        ids.append(at)
        weights.append(softmax(masked)[at])
        left[at] = -np.inf
    return np.array(ids), np.array(weights), l


def grok(l, b, k, cap):
    return mixtral(cap * np.tanh(l / cap), b, k)


def fewer_by_ratio(l, b, k, k_min, threshold):
    s = softmax(l)
    i = best(s, k)
    n = max(k_min, int((s[i] > threshold * s[i[0]]).sum()))
    assert (np.abs(s[i] / s[i[0]] - threshold) > 1e-4).all()
    return i[:n], s[i[:n]] / s[i[:n]].sum(), s


def fewer_by_top_p(l, b, k, k_min, threshold):
    s = softmax(l)
    i = best(s, k)
    sums = np.cumsum(s[i])
    assert (np.abs(sums - threshold) > 1e-4).all()
    n = min(k, max(k_min, int((sums < threshold).sum()) + 1))
    return i[:n], s[i[:n]] / s[i[:n]].sum(), s


def scaled(row, scale):
    return row[0], row[1] * scale, row[2]


def two_gates(l, b, k, groups, top_groups):
    of_group = softmax(l[:groups])
    inside = softmax(l[groups:].reshape(groups, -1))
    s = (of_group[:, None] * inside).reshape(-1)
    assert clear(of_group, top_groups)
    m = group_limited(s, of_group, groups, top_groups, -np.inf)
    i = best(m, k)
    return i, s[i], m


def derived_gate(l, b, k, groups, top_groups):
    g = np.log(np.exp(l).reshape(groups, -1).sum(1))
    i, w, s = two_gates(np.concatenate([g, l]), b, k, groups, top_groups)
    return i, w / w.sum(), s


# --- the cases -----------------------------------------------------------------------------------------------------------------------

rng = np.random.default_rng(20240611)
cases = []


def f32(x):
    return np.asarray(x, np.float32)


def add(name, plugin, options, f, k, n_experts, bias=None, logits=None, n_zero=0, n_logits=None, spread=2.0, ties=False, n_tokens=6, **kw):
    width = n_logits or n_experts + n_zero
    while True:
        l = f32(rng.normal(0, spread, (n_tokens, width))) if logits is None else f32(logits)
        b = None if bias is None else f32(bias)
        rows = [f(t.astype(np.float64), None if b is None else b.astype(np.float64), k, **kw) for t in l]
        if all(c is None or clear(c, k, ties) for _, _, c in rows):
            break
        assert logits is None, name
    cases.append(
        {
            "name": name,
            "plugin": plugin,
            "options": options,
            "n_experts": n_experts,
            "n_zero_experts": n_zero,
            "bias": None if b is None else [float(x) for x in b],
            "logits": [[float(x) for x in t] for t in l],
            "ids": [[int(x) for x in i] for i, _, _ in rows],
            "weights": [[float(f"{x:.9g}") for x in w] for _, w, _ in rows],
        }
    )
    return cases[-1]


def bias(n, spread):
    return rng.normal(0, spread, n)


def differ(a, b, what="ids"):
    assert a[what] != b[what], (a["name"], b["name"])


mix = add("row1_mixtral", "topk", {"k": 2}, mixtral, 2, 8)
add("row1_qwen3_moe", "topk", {"k": 8}, mixtral, 8, 32)
add("row1_every_expert", "topk", {"k": 8}, mixtral, 8, 8)
add("row2_qwen2_moe", "topk", {"k": 4, "renorm": "none"}, as_is, 4, 15)
add("row2_switch", "topk", {"k": 1, "renorm": "none"}, as_is, 1, 16)
add("row3_gpt_oss", "topk", {"k": 4, "score": "softmax_chosen", "bias": True}, top_k_then_softmax, 4, 32, bias=bias(32, 1.0))
add("row3_granite", "topk", {"k": 4, "score": "softmax_chosen"}, top_k_then_softmax, 4, 16)
add("row4_llama4", "topk", {"k": 1, "score": "sigmoid", "renorm": "none", "weight_on": "input"}, llama4, 1, 16)
v2 = {"k": 6, "score": "softmax", "groups": 8, "top_groups": 3, "group_score": "max", "fill": "zero", "renorm": "none", "scale": 16.0}
row5 = add("row5_deepseek_v2", "grouped", v2, deepseek_v2, 6, 32, groups=8, top_groups=3, scale=16.0, n_tokens=12)
v3 = {"k": 8, "score": "sigmoid", "bias": True, "groups": 8, "top_groups": 4, "group_score": "top2_sum", "renorm_eps": 1e-20, "scale": 2.5}
add("row6_deepseek_v3", "grouped", {**v3, "fill": "minus_infinity"}, deepseek_v3, 8, 64, bias=bias(64, 0.1), groups=8, top_groups=4, scale=2.5, fill=-np.inf)
kimi = {"k": 8, "score": "sigmoid", "bias": True}
add("row7_kimi_k2", "topk", {**kimi, "scale": 2.827}, biased_sigmoid, 8, 48, bias=bias(48, 0.2), scale=2.827)
add("row7_minimax_m2", "topk", kimi, biased_sigmoid, 8, 32, bias=bias(32, 0.2), scale=1.0)
add("row8_ernie", "topk", {"k": 6, "bias": True, "renorm": "clamp", "renorm_eps": 1e-12}, ernie, 6, 32, bias=bias(32, 0.05))
add("row8_longcat_flash", "topk", {"k": 6, "bias": True, "renorm": "none", "scale": 6.0}, longcat, 6, 16, n_zero=8, bias=bias(24, 0.05), scale=6.0)
v4 = {"k": 6, "score": "sqrt_softplus", "bias": True, "renorm": "clamp", "renorm_eps": 1e-20, "scale": 1.5}
add("row9_deepseek_v4", "topk", v4, deepseek_v4, 6, 32, bias=bias(32, 0.3), scale=1.5)
# Logits close together, so that the mask takes some experts out and leaves others.
close = 8.0 + 0.12 * rng.permutation(6 * 16).reshape(6, 16) % 1.3
phi = add("row11_phi35_moe", "topk", {"k": 2, "score": "sparse_mixer", "sparse_eps": 0.01}, phi_sparse_mixer, 2, 16, logits=close, eps=0.01)
add("row11_sparse_mixer_negative", "topk", {"k": 2, "score": "sparse_mixer", "sparse_eps": 0.1}, phi_sparse_mixer, 2, 16, logits=-close / 4, eps=0.1)
add("row12_grok", "topk", {"k": 2, "logit_cap": 30.0}, grok, 2, 8, spread=25.0, cap=30.0)
add("row22_ratio", "topk", {"k": 6, "dynamic": "ratio", "threshold": 0.3, "k_min": 2}, fewer_by_ratio, 6, 16, k_min=2, threshold=0.3, n_tokens=12)
add("row22_top_p", "topk", {"k": 6, "dynamic": "top_p", "threshold": 0.7, "k_min": 1}, fewer_by_top_p, 6, 16, k_min=1, threshold=0.7, n_tokens=12)
two = {"k": 4, "groups": 4, "top_groups": 2}
add("row23_two_trained_gates", "hierarchical", {**two, "gate": "trained"}, two_gates, 4, 16, n_logits=20, groups=4, top_groups=2)
hier = add("row23_derived_gate", "hierarchical", two, derived_gate, 4, 16, groups=4, top_groups=2)
same = add("row23_derived_gate_of_all_groups", "hierarchical", {**two, "top_groups": 4}, derived_gate, 4, 16, logits=hier["logits"], groups=4, top_groups=4)
plain = add("row1_same_logits", "topk", {"k": 4}, mixtral, 4, 16, logits=hier["logits"])
assert same["ids"] == plain["ids"]
differ(hier, plain)

# 1. Experts outside the chosen groups: 0 or -inf. A bias low enough that kept experts' scores are negative.
low = bias(32, 0.1) - 0.8
fill = {"k": 6, "score": "sigmoid", "bias": True, "groups": 8, "top_groups": 3, "group_score": "top2_sum", "scale": 2.5}
zero = add("differ1_fill_zero", "grouped", {**fill, "fill": "zero"}, deepseek_v3, 6, 32, bias=low, groups=8, top_groups=3, scale=2.5, ties=True)
minus = add("differ1_fill_minus_infinity", "grouped", {**fill, "fill": "minus_infinity"}, deepseek_v3, 6, 32, bias=low, logits=zero["logits"], groups=8, top_groups=3, scale=2.5, fill=-np.inf)
differ(zero, minus)

# 2. Renormalisation where all scores are tiny: sigma(-13) = 2e-6.
tiny = f32(rng.normal(-13, 0.5, (4, 16)))
flat = np.zeros(16)
base = {"k": 4, "score": "sigmoid", "bias": True}
eps = add("differ2_sum_plus_eps", "topk", {**base, "renorm": "sum", "renorm_eps": 1e-20}, biased_sigmoid, 4, 16, bias=flat, logits=tiny, scale=1.0, ties=True)
bare = add("differ2_bare_sum", "topk", {**base, "renorm": "sum", "renorm_eps": 0.0}, biased_sigmoid, 4, 16, bias=flat, logits=tiny, scale=1.0, eps=0.0, ties=True)
clamped = add("differ2_clamped_sum", "topk", {**base, "renorm": "clamp", "renorm_eps": 6.1e-5}, biased_sigmoid, 4, 16, bias=flat, logits=tiny, scale=1.0, clamp=6.1e-5, ties=True)
differ(eps, clamped, "weights")

# 3. The group's score: V2 needs the max, V3 the sum of the best two.
top2 = add("differ3_v2_with_top2_sum", "grouped", {**v2, "group_score": "top2_sum"}, deepseek_v2, 6, 32, logits=row5["logits"], groups=8, top_groups=3, scale=16.0, top2=True)
differ(row5, top2)

# 4. Phi-MoE as softmax and renormalise: same experts, other weights.
as_mixtral = add("differ4_phi_as_mixtral", "topk", {"k": 2}, mixtral, 2, 16, logits=phi["logits"])
differ(phi, as_mixtral, "weights")

# 5. A trained bias whose values differ by less than bf16 can hold.
fine = 4.0 + f32(rng.permutation(64)) / 2048
bf16 = (fine.view(np.uint32) & 0xFFFF0000).view(np.float32)
assert len(set(bf16.tolist())) <= 2
even = np.zeros((2, 64))
exact = add("differ5_bias_in_f32", "topk", {"k": 8, "score": "sigmoid", "bias": True}, biased_sigmoid, 8, 64, bias=fine, logits=even, scale=1.0)
coarse = add("differ5_bias_in_bf16", "topk", {"k": 8, "score": "sigmoid", "bias": True}, biased_sigmoid, 8, 64, bias=bf16, logits=even, scale=1.0, ties=True)
differ(exact, coarse)

# 6. Ties: the lower id. All equal, pairs, and equal groups.
pairs = np.repeat(f32([1, 3, 2, 3, 0, 2, 3, 1]), 2)[None]
ties = {"logits": np.concatenate([np.zeros((1, 16)), pairs]), "ties": True}
add("differ6_ties_softmax", "topk", {"k": 5}, mixtral, 5, 16, **ties)
add("differ6_ties_sigmoid", "topk", {"k": 5, "score": "sigmoid", "bias": True}, biased_sigmoid, 5, 16, bias=flat, scale=1.0, **ties)


def grouped_ties(l, b, k):
    s = softmax(l)
    i = best(group_limited(s, s.reshape(4, -1).max(1), 4, 2, -np.inf), k)
    return i, s[i] / s[i].sum(), s


add("differ6_ties_of_groups", "grouped", {"k": 5, "score": "softmax", "groups": 4, "top_groups": 2, "group_score": "max"}, grouped_ties, 5, 16, **ties)

# The router whose k is dynamic by default, and does the same as the option of the others.
by_p = {"k": 6, "by": "top_p", "threshold": 0.7, "scale": 2.5}
add("dynamic_top_p", "dynamic", by_p, lambda *a, **kw: scaled(fewer_by_top_p(*a, **kw), 2.5), 6, 16, k_min=1, threshold=0.7, n_tokens=12)
add("dynamic_ratio", "dynamic", {"k": 6, "by": "ratio", "threshold": 0.3, "k_min": 2}, fewer_by_ratio, 6, 16, k_min=2, threshold=0.3, n_tokens=12)

lines = ",\n".join(json.dumps(c) for c in cases)
pathlib.Path(__file__).with_name("golden.json").write_text("[\n" + lines + "\n]\n")
print(len(cases), "cases")
