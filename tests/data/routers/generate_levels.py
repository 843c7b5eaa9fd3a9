#!/usr/bin/env python3
"""Writes levels.json: what the routers that show the three ways to write one decide, computed in float64 from their formulas.

Needs numpy; run it only to change the cases:  python3 generate_levels.py
"""
import json
import pathlib

import numpy as np

rng = np.random.default_rng(7)


def softmax(l):
    e = np.exp(l - l.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def f32(x):
    return np.asarray(x, np.float32).astype(np.float64)


def rows(x):
    return [[float(v) for v in row] for row in x]


def best(c, k):
    return np.argsort(-c, kind="stable")[:k]


def case(name, plugin, options, E, d, values, logits, hidden, decide, **more):
    ids, weights = [], []
    for t in range(len(hidden)):
        i, w = decide(t)
        ids.append([int(v) for v in i])
        weights.append([float(v) for v in w])
    return {"name": name, "plugin": plugin, "n_experts": E, "d_model": d, "options": options, "bias": None,
            "values": {r: [float(v) for v in np.ravel(m)] for r, m in values.items()},
            "logits": rows(logits), "hidden": rows(hidden), "ids": ids, "weights": weights, **more}


def top_any(trained):
    """DynMoE: take e if cos(x, w_e) tau > threshold_e; the most similar if none."""
    E, d, n, tau = 12, 16, 40, 2.0
    gate, x = f32(rng.normal(size=(E, d))), f32(rng.normal(size=(n, d)))
    threshold = f32(rng.uniform(-0.2, 0.9, size=E)) if trained else np.full(E, 0.7)
    logits = f32(x @ gate.T)
    s = tau * logits / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(gate, axis=1))

    def decide(t):
        order = best(s[t], E)
        taken = [e for e in order if s[t][e] > threshold[e]][:5] or [order[0]]
        return taken, np.full(len(taken), 1 / len(taken))

    values = {"gate": gate}
    if trained:
        values["threshold"] = threshold
    return case(f"top_any_{'trained' if trained else 'fixed'}", "top_any",
                {"k": 5, "temperature": tau, "threshold": 0.7}, E, d, values, logits, x, decide, absent=[] if trained else ["threshold"])


def cosine(projected):
    """Tutel: l = tau cos(P x, S), softmax, k best, weights that sum to one."""
    E, d, p, n, k, tau = 16, 24, 8, 40, 3, 10.0
    x = f32(rng.normal(size=(n, d)))
    dim = p if projected else d
    S = f32(rng.normal(size=(E, dim)))
    P = f32(rng.normal(size=(p, d)))
    y = x @ P.T if projected else x
    s = softmax(tau * (y / np.linalg.norm(y, axis=1, keepdims=True)) @ (S / np.linalg.norm(S, axis=1, keepdims=True)).T)

    def decide(t):
        i = best(s[t], k)
        return i, s[t][i] / s[t][i].sum()

    values = {"similarity": S, "projection": P} if projected else {"gate": S}
    options = {"k": k, "temperature": tau}
    if projected:
        options |= {"dim": p, "similarity": "similarity"}
    return case(f"cosine_{'projected' if projected else 'plain'}", "cosine", options, E, d, values, np.zeros((n, 0)), x, decide, tolerance=3e-5)


def context():
    """l' = (1 - m) l + m sum_p a_p log s_p over the last positions of the sequence; softmax over the k best."""
    E, d, n, k, mix, beta, window = 8, 8, 24, 2, 0.4, 4.0, 6
    logits = f32(rng.normal(size=(n, E)) * 2)
    s = f32(softmax(logits))  # the states are kept in float32

    def decide(t):
        past = range(max(0, t - window + 1), t + 1)
        a = softmax(np.array([beta * s[t] @ s[p] for p in past]))
        l = (1 - mix) * logits[t] + mix * sum(w * np.log(s[p] + 1e-30) for w, p in zip(a, past))
        i = best(l, k)
        return i, softmax(l[i])

    return case("context", "context", {"k": k, "mix": mix, "beta": beta, "window": window}, E, d, {}, logits, np.zeros((n, d)), decide,
                tolerance=2e-5)


def relu():
    """ReMoE: w = relu(l); the k largest that are positive; the largest alone if none is."""
    E, d, n, k = 16, 8, 40, 6
    logits = f32(rng.normal(size=(n, E)) - 0.8)

    def decide(t):
        i = [e for e in best(logits[t], k) if logits[t][e] > 0] or [best(logits[t], 1)[0]]
        return i, np.maximum(logits[t][i], 0)

    return case("relu", "relu", {"k": k}, E, d, {}, logits, np.zeros((n, d)), decide)


def attention(window):
    """q, k, v = the gate's last rows; c = softmax(q . k_p / sqrt(d)) v_p over the window; l' = l + W_c c; sigmoid, bias, k best."""
    E, d, n, k, C = 12, 8, 24, 3, 4
    l = f32(rng.normal(size=(n, E + 3 * C)) * 2)
    W, b = f32(rng.normal(size=(E, C))), f32(rng.normal(size=E) * 0.1)
    q, keys, values = (l[:, E + i * C : E + (i + 1) * C] for i in range(3))

    def decide(t):
        past = slice(max(0, t - window + 1), t + 1)
        c = softmax(keys[past] @ q[t] / np.sqrt(C)) @ values[past]
        s = 1 / (1 + np.exp(-(l[t, :E] + W @ c)))
        i = best(s + b, k)
        return i, s[i] / s[i].sum() * 2.5

    return case("attention" if window > 1 else "attention_alone", "attention", {"k": k, "state": C, "window": window, "bias": True, "scale": 2.5}, E, d,
                {"context": W, "bias": b}, l, np.zeros((n, d)), decide, tolerance=2e-5)


def mixed(x):
    """splitmix64"""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def hash_layer(trained):
    """The k experts of the token's id, best first by the gate's sigmoid; made: the start of a shuffle of its own for each id."""
    E, d, n, k, V, layer, seed = 16, 8, 32, 4, 50, 3, 11
    l = f32(rng.normal(size=(n, E)) * 2)
    s = 1 / (1 + np.exp(-l))
    table = np.stack([rng.permutation(E)[:k] for _ in range(V)])
    if not trained:
        for token in range(V):
            order, x = list(range(E)), mixed((mixed(seed) + layer) % 2**64) ^ mixed(token)
            for j in range(k):
                x = mixed(x)
                at = j + x % (E - j)
                order[j], order[at] = order[at], order[j]
            table[token] = order[:k]
    tokens = rng.integers(0, V, n)

    def decide(t):
        i = sorted(table[tokens[t]], key=lambda e: (-s[t][e], e))
        return i, s[t][i] / s[t][i].sum()

    return case(f"hash_{'table' if trained else 'made'}", "hash", {"k": k, "table": True} if trained else {"k": k, "seed": seed}, E, d,
                {"table": table} if trained else {}, l, np.zeros((n, d)), decide, n_vocab=V, layer=layer, token_ids=[int(x) for x in tokens])


def expert_attention(k, n, spread):
    """Yuan 2.0-M32: l = softmax(q k^T) v over the experts of one token; softmax, k best, weights that sum to one."""
    E, d = 12, 8

    def scores(row):
        q, keys, values = np.split(row, 3)
        return softmax(softmax(np.outer(q, keys)) @ values)

    def clear(row):  # experts whose queries find nearly the same are near a tie
        s = scores(row)
        return (-np.diff(s[best(s, k + 1)]) > 1e-4 * s.max()).all()

    drawn = f32(rng.normal(size=(3 * n, 3 * E)) * spread)
    rows = np.array([row for row in drawn if clear(row)][:n])
    assert len(rows) == n

    def decide(t):
        s = scores(rows[t])
        i = best(s, k)
        return i, s[i] / s[i].sum()

    return case(f"expert_attention_{k}", "expert_attention", {"k": k}, E, d, {}, rows, np.zeros((n, d)), decide, tolerance=2e-5)


cases = [top_any(True), top_any(False), cosine(True), cosine(False), context(), relu()]
cases += [attention(6), attention(1), hash_layer(True), hash_layer(False)]
cases += [expert_attention(2, 40, 2.0), expert_attention(5, 40, 0.7)]
text = "[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n"
pathlib.Path(__file__).with_name("levels.json").write_text(text)
