"""Makes the *.json beside it: operations computed in numpy's float64 from the papers' formulas, for tests/sdk/loops/loops_test.cpp.

Run: python3 make.py   (numpy 1.24 or later). Inputs are f32 values written exactly; outputs are float64.
"""
import json
import math
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def f32(a):
    return np.asarray(a, dtype=np.float32)


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).tolist() if value.dtype.kind == "f" else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value


def write(name, cases):
    with open(os.path.join(HERE, name + ".json"), "w") as f:
        f.write('{"cases": [\n' + ",\n".join(json.dumps(plain(c)) for c in cases) + "\n]}\n")


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def top(values, k):
    """The k best, ties to the lower index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


# --- route: one function a row of the table of known routers --------------------------------------------------------------------


def mixtral(l, b, k):  # softmax, top-k, renormalised
    s = softmax(l)
    ids = top(s, k)
    return ids, s[ids] / s[ids].sum()


def qwen2(l, b, k):  # softmax, top-k, as they are
    s = softmax(l)
    ids = top(s, k)
    return ids, s[ids]


def gpt_oss(l, b, k):  # top-k of l + b, then softmax over those
    ids = top(l + b, k)
    return ids, softmax((l + b)[ids])


def llama4(l, b, k):
    ids = top(l, k)
    return ids, sigmoid(l[ids])


def in_groups(c, groups, kept, score, fill):
    size = len(c) // groups
    chosen = top([score(c[g * size:(g + 1) * size]) for g in range(groups)], kept)
    return np.array([c[e] if e // size in chosen else fill for e in range(len(c))])


def deepseek_v2(l, b, k):  # group score: the largest
    s = softmax(l)
    ids = top(in_groups(s, 4, 2, np.max, 0.0), k)
    return ids, s[ids] * 16.0


def deepseek_v3(fill):
    def route(l, b, k):  # group score: the two largest of the biased; weights unbiased
        s = sigmoid(l)
        c = in_groups(s + b, 4, 2, lambda g: np.sort(g)[-2:].sum(), fill)
        ids = top(c, k)
        return ids, s[ids] / (s[ids].sum() + 1e-20) * 2.5

    return route


def kimi_k2(l, b, k):
    s = sigmoid(l)
    ids = top(s + b, k)
    return ids, s[ids] / (s[ids].sum() + 1e-20) * 2.827


def ernie(l, b, k):
    s = softmax(l)
    ids = top(s + b, k)
    return ids, s[ids] / max(s[ids].sum(), 0.25)


def longcat(l, b, k):
    s = softmax(l)
    ids = top(s + b, k)
    return ids, s[ids] * 6.0


def deepseek_v4(l, b, k):
    s = np.sqrt(np.logaddexp(0.0, l))
    ids = top(s + b, k)
    return ids, s[ids] / max(s[ids].sum(), 1e-20) * 1.5


def sparse_mixer(l, b, k):  # Phi-3.5-MoE, inference; jitter eps 0.1 here
    eps = float(np.float32(0.1))
    left = l.copy()
    ids, weights = [], []
    for _ in range(k):
        best = top(left, 1)[0]
        m = left[best]
        with np.errstate(invalid="ignore", divide="ignore"):
            far = (m - l) / np.maximum(np.abs(l), m) > 2 * eps
        weights.append(softmax(np.where(far, -np.inf, left))[best])
        ids.append(best)
        left[best] = -np.inf
    return ids, np.array(weights)


def grok(l, b, k):
    return mixtral(30.0 * np.tanh(l / 30.0), b, k)


def ratio(l, b, k):  # keep the first k_min = 2 and those above 0.35 of the best, then renormalise
    s = softmax(l)
    ids = top(s, k)
    keep = [j for j in range(k) if j < 2 or s[ids[j]] > float(np.float32(0.35)) * s[ids[0]]]
    ids = [ids[j] for j in keep]
    return ids, s[ids] / s[ids].sum()


def top_p(l, b, k):  # the fewest whose probability reaches 0.6
    s = softmax(l)
    ids = top(s, k)
    n = next((j + 1 for j in range(k) if s[ids[:j + 1]].sum() >= float(np.float32(0.6))), k)
    return ids[:n], s[ids[:n]]


def two_gates(l, b, k):  # 4 groups; the 2 best groups by their gate; w = s_group * s_expert
    group = softmax(l[:4])
    size = (len(l) - 4) // 4
    s = np.concatenate([group[g] * softmax(l[4 + g * size:4 + (g + 1) * size]) for g in range(4)])
    kept = top(group, 2)
    ids = top([s[e] if e // size in kept else -np.inf for e in range(len(s))], k)
    return ids, s[ids]


def log_sum_exp_groups(l, b, k):  # one gate read as two: a group's probability is the sum of its experts'
    s = softmax(l)
    ids = top(in_groups(s, 4, 2, np.sum, -np.inf), k)
    return ids, s[ids] / s[ids].sum()


SOFTMAX, SIGMOID, SQRT_SOFTPLUS, SOFTMAX_CHOSEN, SPARSE_MIXER, GROUP_GATE = range(1, 7)
MAX, TOP2_SUM, GATE_SCORE, SUM = range(1, 5)
ROUTES = [
    ("row 1: softmax, renormalised", mixtral, 8, 2, False, dict(score=SOFTMAX, renorm=1)),
    ("row 2: softmax as is", qwen2, 60, 4, False, dict(score=SOFTMAX)),
    ("row 3: top-k then softmax, with bias", gpt_oss, 32, 4, True, dict(score=SOFTMAX_CHOSEN)),
    ("row 4: sigmoid, one expert", llama4, 16, 1, False, dict(score=SIGMOID)),
    ("row 5: group-limited greedy", deepseek_v2, 16, 3, False,
     dict(score=SOFTMAX, group_score=MAX, n_groups=4, top_groups=2, fill=0, scale=16.0)),
    ("row 6: biased grouped, others 0", deepseek_v3(0.0), 16, 4, True,
     dict(score=SIGMOID, group_score=TOP2_SUM, n_groups=4, top_groups=2, fill=0, renorm=1, renorm_eps=1e-20, scale=2.5)),
    ("row 6: biased grouped, others -inf", deepseek_v3(-np.inf), 16, 4, True,
     dict(score=SIGMOID, group_score=TOP2_SUM, n_groups=4, top_groups=2, fill=1, renorm=1, renorm_eps=1e-20, scale=2.5)),
    ("row 7: biased, one group", kimi_k2, 48, 8, True, dict(score=SIGMOID, renorm=1, renorm_eps=1e-20, scale=2.827)),
    ("row 8: softmax and bias, clamped", ernie, 20, 3, True, dict(score=SOFTMAX, renorm=2, renorm_eps=0.25)),
    ("row 8: softmax and bias, scaled", longcat, 24, 5, True, dict(score=SOFTMAX, scale=6.0)),
    ("row 9: sqrt-softplus", deepseek_v4, 20, 6, True, dict(score=SQRT_SOFTPLUS, renorm=2, renorm_eps=1e-20, scale=1.5)),
    ("row 11: SparseMixer", sparse_mixer, 16, 2, False, dict(score=SPARSE_MIXER, sparse_eps=0.1)),
    ("row 12: tanh soft cap", grok, 8, 2, False, dict(score=SOFTMAX, renorm=1, logit_cap=30.0)),
    ("row 22: ratio", ratio, 16, 6, False, dict(score=SOFTMAX, renorm=1, dynamic=1, k_min=2, threshold=0.35)),
    ("row 22: top-p", top_p, 16, 6, False, dict(score=SOFTMAX, dynamic=2, k_min=1, threshold=0.6)),
    ("row 23: two gates", two_gates, 16, 3, False,
     dict(score=GROUP_GATE, group_score=GATE_SCORE, n_groups=4, top_groups=2, fill=1)),
    ("row 23 with one gate", log_sum_exp_groups, 16, 3, False,
     dict(score=SOFTMAX, group_score=SUM, n_groups=4, top_groups=2, fill=1, renorm=1)),
]


def routes(r):
    for name, route, n_experts, k, biased, args in ROUTES:
        wide = args.get("logit_cap", 0) > 0
        width = n_experts + (4 if args["score"] == GROUP_GATE else 0)
        logits = f32(r.normal(0, 40 if wide else 2, (12, width)))
        if args["score"] != GROUP_GATE:  # the two last rows have ties
            logits[-1] = 0.75
            logits[-2] = np.round(logits[-2])
        bias = f32(r.normal(-0.6, 0.5, n_experts)) if biased else f32(np.zeros(n_experts))  # some c are below 0
        ids, weights, count = [], [], []
        for row in logits.astype(np.float64):
            i, w = route(row, bias.astype(np.float64), k)
            count.append(len(i))
            ids.append(list(i) + [-1] * (k - len(i)))
            weights.append(list(w) + [0.0] * (k - len(i)))
        yield dict(name=name, n_experts=n_experts, top_k=k, logits=logits, bias=bias if biased else [], ids=ids, weights=weights,
                   count=count, **args)


# --- the other operations --------------------------------------------------------------------------------------------------------


def ropes(r):
    for interleaved in (0, 1):
        n, heads, offset, n_rot, dim = 4, 2, 3, 8, 12
        x = f32(r.normal(0, 1, (n, heads, dim)))
        positions = [0, 1, 77, 1000003]
        inv_freq = f32(10000.0 ** (-np.arange(n_rot // 2) / (n_rot // 2)))
        scale = float(np.float32(1.1 if interleaved else 1.0))
        out = x.astype(np.float64)
        for t in range(n):
            for i in range(n_rot // 2):
                a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + n_rot // 2)
                z = (x[t, :, offset + a].astype(np.float64) + 1j * x[t, :, offset + b]) * scale * np.exp(1j * positions[t] * float(inv_freq[i]))
                out[t, :, offset + a], out[t, :, offset + b] = z.real, z.imag
        yield dict(name="interleaved" if interleaved else "halves", x=x, positions=positions, inv_freq=inv_freq, offset=offset,
                   scale=scale, interleaved=interleaved, out=out)


def attentions(r):
    page_size, max_pages, sequences = 4, 5, 2
    for name, heads, kv_heads, k_dim, v_dim, window, sink, cap, latent, chunk, heat in (
            ("plain", 2, 2, 8, 8, 0, False, 0.0, False, 0, None),
            ("grouped-query with a window", 6, 2, 8, 5, 6, False, 0.0, False, 0, None),
            ("sinks and a window", 4, 1, 8, 8, 3, True, 0.0, False, 0, None),
            ("soft cap", 2, 1, 7, 9, 0, False, 2.0, False, 0, None),
            ("latent: v is a prefix of k", 4, 1, 12, 8, 0, False, 0.0, True, 0, None),
            ("chunks", 4, 2, 6, 6, 0, False, 0.0, False, 5, None),
            ("a temperature that grows with the position", 2, 1, 6, 6, 0, False, 0.0, False, 0, (0.25, 4, 1))):
        table = r.permutation(sequences * max_pages).reshape(sequences, max_pages)
        rows = sequences * max_pages * page_size
        k = f32(r.normal(0, 1, (rows, kv_heads, k_dim)))
        v = k[:, :, :v_dim] if latent else f32(r.normal(0, 1, (rows, kv_heads, v_dim)))
        seq, pos = [0, 1, 1, 0], [0, 19, 7, 12]
        q = f32(r.normal(0, 2, (4, heads, k_dim)))
        sinks = f32(r.normal(0, 1, heads))
        scale = float(np.float32(k_dim ** -0.5))
        out = np.zeros((4, heads, v_dim))
        for i in range(4):
            first = max(0, pos[i] - window + 1) if window else 0
            if chunk:
                first = max(first, pos[i] - pos[i] % chunk)
            own_scale = scale * (1 + heat[0] * np.log(1 + np.floor((pos[i] + heat[2]) / heat[1]))) if heat else scale
            at = [table[seq[i], p // page_size] * page_size + p % page_size for p in range(first, pos[i] + 1)]
            for h in range(heads):
                g = h * kv_heads // heads
                s = k[at, g].astype(np.float64) @ q[i, h].astype(np.float64) * own_scale
                if cap:
                    s = cap * np.tanh(s / cap)
                e = np.exp(s)
                out[i, h] = e @ v[at, g].astype(np.float64) / (e.sum() + (np.exp(float(sinks[h])) if sink else 0.0))
        yield dict(name=name, q=q, k=k, v=[] if latent else v, v_dim=v_dim, page_table=table, page_size=page_size, sequences=seq,
                   positions=pos, sinks=sinks if sink else [], window=window, scale=scale, soft_cap=cap, out=out,
                   chunk=chunk, **(dict(zip(("temperature", "temperature_length", "temperature_offset"), heat)) if heat else {}))


def act(kind, g, u, limit, alpha, gated):
    if kind == 6:
        g, u = min(g, limit), min(max(u, -limit), limit)
        return (u + 1.0) * g * sigmoid(alpha * g)
    y = {
        1: lambda: g * sigmoid(g),
        2: lambda: g * 0.5 * (1.0 + math.erf(g / math.sqrt(2.0))),
        3: lambda: 0.5 * g * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (g + 0.044715 * g ** 3))),
        4: lambda: max(g, 0.0),
        5: lambda: max(g, 0.0) ** 2,
    }[kind]()
    if limit > 0:
        y, u = min(y, limit), min(max(u, -limit), limit)
    return y * u if gated else y


def activations(r):
    for kind in range(1, 7):
        for limit, gated in ((0.0, True), (1.5, True), (0.0, False)):
            if kind == 6 and (limit == 0.0 or not gated):
                continue
            g, u = f32(r.normal(0, 2, (2, 6))), f32(r.normal(0, 2, (2, 6)))
            alpha = float(np.float32(1.702))
            out = [[act(kind, float(a), float(b), limit, alpha, gated) for a, b in zip(x, y)] for x, y in zip(g, u)]
            yield dict(name=f"kind {kind} limit {limit} gated {gated}", kind=kind, limit=limit, alpha=alpha, ungated=int(not gated),
                       gate=g, up=u, out=np.array(out))


def bf16(x):
    bits = f32(x).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)).view(np.float32)


def int8(x):
    out = np.zeros_like(f32(x))
    for first in range(0, len(x), 32):
        block = f32(x[first:first + 32])
        scale = np.float32(np.abs(block).max() / np.float32(127))
        out[first:first + 32] = np.rint(block / scale) * scale
    return out


ROUND = {1: f32, 2: lambda x: f32(np.float16(x)), 3: bf16, 5: int8}  # by MOE_F32, MOE_F16, MOE_BF16, MOE_I8


def ffns(r):
    n_experts, d_model, width, k, first = 2, 35, 33, 3, 2

    def few_digits(*shape):  # short in the file
        return f32(np.round(r.normal(0, 26, shape)) / 64)

    for name, kind, activation, on_input, with_bias, row_gate in (
            ("SwiGLU", 1, 1, False, False, True),
            ("clamped SwiGLU with biases (gpt-oss)", 6, 1, False, True, False),
            ("weights on the input (Llama-4)", 1, 1, True, False, False),
            ("SwiGLU, bf16 activations", 1, 3, False, False, False),
            ("GeGLU, f16 activations", 3, 2, False, False, False),
            ("SwiGLU, 8-bit activations", 1, 5, False, False, False)):
        gate, up = few_digits(n_experts, width, d_model), few_digits(n_experts, width, d_model)
        down = few_digits(n_experts, d_model, width)
        gate_bias, up_bias = (f32(r.normal(0, 1, (n_experts, width))) for _ in range(2))
        down_bias = f32(r.normal(0, 1, (n_experts, d_model)))
        x, there = f32(r.normal(0, 1, (5, d_model))), f32(r.normal(0, 1, (5, d_model)))
        ids = np.array([r.permutation(n_experts + 3)[:k] for _ in range(5)])  # 0, 1 and 4 belong to others
        weights, count = f32(r.uniform(0, 1, (5, k))), [3, 3, 1, 2, 3]
        gates = f32(r.normal(0, 1, 5))
        scale, alpha, limit = 0.5, float(np.float32(1.702)), 1.0 if kind == 6 else 0.0
        out = there.astype(np.float64)
        for i in range(5):
            for j in range(count[i]):
                e = ids[i, j] - first
                if not 0 <= e < n_experts:
                    continue
                xi = ROUND[activation](x[i] * weights[i, j] if on_input else x[i]).astype(np.float64)
                g, u = gate[e].astype(np.float64) @ xi, up[e].astype(np.float64) @ xi
                if with_bias:
                    g, u = g + gate_bias[e], u + up_bias[e]
                h = f32([act(kind, a, b, limit, alpha, True) for a, b in zip(g, u)])
                y = down[e].astype(np.float64) @ ROUND[activation](h).astype(np.float64)
                if with_bias:
                    y = y + down_bias[e]
                out[i] += scale * (1.0 if on_input else float(weights[i, j])) * y * (sigmoid(float(gates[i])) if row_gate else 1.0)
        yield dict(name=name, kind=kind, limit=limit, alpha=alpha, activation=activation, weight_on=int(on_input), gate=gate, up=up, down=down,
                   gate_bias=gate_bias if with_bias else [], up_bias=up_bias if with_bias else [],
                   down_bias=down_bias if with_bias else [], x=x, ids=ids, weights=weights, count=count,
                   row_gate=gates if row_gate else [], first_expert=first, scale=scale, there=there, out=out)


def norms(r):
    for kind in (1, 2):
        for with_residual in (False, True):
            x, residual = f32(r.normal(1, 2, (3, 11))), f32(r.normal(0, 2, (3, 11)))
            weight, bias, eps = f32(r.normal(1, 0.2, 11)), f32(r.normal(0, 1, 11)), float(np.float32(1e-5))
            s = (x + residual if with_residual else x).astype(np.float64)
            if kind == 1:
                y = s / np.sqrt((s ** 2).mean(-1, keepdims=True) + eps) * weight
            else:
                y = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + eps) * weight + bias
            yield dict(name=f"kind {kind} residual {with_residual}", kind=kind, x=x, residual=residual if with_residual else [],
                       weight=weight, bias=bias if kind == 2 else [], eps=eps, out=y)


def matmuls(r):
    for name, activation, cap, accumulate in (("plain", 1, 0.0, 0), ("bf16 activations, added", 3, 0.0, 1), ("8-bit activations", 5, 0.0, 0),
                                              ("soft cap", 1, 5.0, 0)):
        groups, n_out, n_in = 2, 5, 35
        w, x = f32(r.normal(0, 1, (groups, n_out, n_in))), f32(r.normal(0, 1, (3, groups, n_in)))
        bias, there, scale = f32(r.normal(0, 1, (groups, n_out))), f32(r.normal(0, 1, (3, groups, n_out))), float(np.float32(0.7))
        y = np.zeros((3, groups, n_out))
        for i in range(3):
            for g in range(groups):
                y[i, g] = scale * (w[g].astype(np.float64) @ ROUND[activation](x[i, g]).astype(np.float64) + bias[g])
        y = y + there if accumulate else y
        y = cap * np.tanh(y / cap) if cap else y
        yield dict(name=name, weight=w, x=x, bias=bias, there=there, scale=scale, soft_cap=cap, activation=activation,
                   accumulate=accumulate, out=y)


if __name__ == "__main__":
    for seed, (name, make) in enumerate(dict(route=routes, rope=ropes, attention=attentions, activation=activations, ffn=ffns,
                                             norm=norms, matmul=matmuls).items()):
        write(name, list(make(np.random.default_rng(seed))))
