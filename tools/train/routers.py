"""The routers of the family as they are trained. Each gives, for h [n, d] f32 of the layer's normed state:

  ids [n, k] (best first), weights [n, k] f32 (0 where a token takes fewer experts), loss (a scalar that keeps the load even, or 0)

and says how the router of Patchbay that serves it is set (`settings`) and which tensors that wants (`tensors`, by their name under
`mlp.gate.`). What a router is called and how it is set is in FAMILY.
"""
import torch
from torch import nn
from torch.nn import functional as F

N_EXPERTS, TOP_K, SCALE = 16, 4, 2.5
BALANCE = 0.01  # factor of the losses that keep the load even, where there is no bias that does


def share(ids, kept, valid):
    """[E]: the share of the choices that each expert got. `kept` [n, k]: which choices count."""
    counted = (kept & valid[:, None])[:, :, None] & (ids[:, :, None] == torch.arange(N_EXPERTS, device=ids.device))
    load = counted.sum((0, 1)).float()
    return load / load.sum().clamp(min=1)


def switch_loss(s, load, valid):
    """E times the sum of share and mean score (arXiv 2101.03961, equation 4)."""
    mean = (s * valid[:, None]).sum(0) / valid.sum().clamp(min=1)
    return s.shape[1] * (load * mean).sum()


def normalised(s, ids):
    w = s.gather(1, ids)
    return w / (w.sum(1, keepdim=True) + 1e-20) * SCALE


class Router(nn.Module):
    """`gate` [rows, d]; subclasses choose. load: [E], the share of the choices that each expert got in the last call."""

    def __init__(self, d, rows=N_EXPERTS):
        super().__init__()
        self.gate = nn.Parameter(torch.randn(rows, d) / d**0.5 * 0.6)
        self.register_buffer("load", torch.zeros(N_EXPERTS))

    def logits(self, h):
        return h @ self.gate.T

    def finish(self, ids, w, kept, valid):
        self.load.copy_(share(ids, kept, valid))
        return ids, w

    def balance(self, step):
        """After each step; `step` is what a bias may move by."""

    def tensors(self):
        return {"weight": self.gate}


class Softmax(Router):
    """The k best by softmax, renormalised (Mixtral, Qwen3-MoE)."""

    settings = dict(plugin="topk", k=TOP_K, score="softmax", scale=SCALE)

    def forward(self, h, where):
        s = self.logits(h).softmax(1)
        ids = s.topk(TOP_K, 1).indices
        ids, w = self.finish(ids, normalised(s, ids), torch.ones_like(ids, dtype=torch.bool), where.valid)
        return ids, w, BALANCE * switch_loss(s, self.load, where.valid)


class Biased(Router):
    """Sigmoid scores and a bias that only selects; it follows the load, so there is no loss for that (arXiv 2408.15664)."""

    def __init__(self, d, rows=N_EXPERTS):
        super().__init__(d, rows)
        self.register_buffer("bias", torch.zeros(N_EXPERTS))

    def choose(self, s):
        return (s + self.bias).topk(TOP_K, 1).indices

    def forward(self, h, where):
        s = self.logits(h).sigmoid()
        ids = self.choose(s.detach())
        ids, w = self.finish(ids, normalised(s, ids), torch.ones_like(ids, dtype=torch.bool), where.valid)
        return ids, w, torch.zeros((), device=h.device)

    def balance(self, step):
        self.bias += step * torch.sign(1 / N_EXPERTS - self.load)

    def tensors(self):
        return super().tensors() | {"e_score_correction_bias": self.bias}


class Sigmoid(Biased):
    settings = dict(plugin="topk", k=TOP_K, score="sigmoid", bias=True, scale=SCALE)


class Grouped(Biased):
    """The k best of the 2 best of 4 groups, a group scored by its two best (DeepSeek-V3)."""

    GROUPS, KEPT = 4, 2
    settings = dict(plugin="grouped", k=TOP_K, groups=GROUPS, top_groups=KEPT, group_score="top2_sum", fill="minus_infinity",
                    score="sigmoid", bias=True, scale=SCALE)

    def choose(self, s):
        c = s + self.bias
        groups = c.view(len(c), self.GROUPS, -1)
        best = groups.topk(2, 2).values.sum(2).topk(self.KEPT, 1).indices
        kept = torch.zeros(len(c), self.GROUPS, dtype=torch.bool, device=c.device).scatter_(1, best, True)
        return groups.masked_fill(~kept[:, :, None], float("-inf")).flatten(1).topk(TOP_K, 1).indices


class Hierarchical(Router):
    """Two trained gates: groups by the one, experts inside them by the other; s = s_group s_expert (arXiv 1701.06538, appendix B)."""

    GROUPS, KEPT = 4, 2
    settings = dict(plugin="hierarchical", k=TOP_K, groups=GROUPS, top_groups=KEPT, gate="trained", renorm="sum", scale=SCALE)

    def __init__(self, d):
        super().__init__(d, self.GROUPS + N_EXPERTS)

    def forward(self, h, where):
        l = self.logits(h)
        of_group = l[:, : self.GROUPS].softmax(1)
        inside = l[:, self.GROUPS :].view(len(l), self.GROUPS, -1).softmax(2)
        s = of_group[:, :, None] * inside
        best = of_group.topk(self.KEPT, 1).indices
        kept = torch.zeros_like(of_group, dtype=torch.bool).scatter_(1, best, True)
        ids = s.detach().masked_fill(~kept[:, :, None], -1).flatten(1).topk(TOP_K, 1).indices
        ids, w = self.finish(ids, normalised(s.flatten(1), ids), torch.ones_like(ids, dtype=torch.bool), where.valid)
        return ids, w, BALANCE * switch_loss(s.flatten(1), self.load, where.valid)


class Attention(Biased):
    """Context-aware: a token's query attends over the router states of the last `window` tokens of its sequence, its own included.

    q, k, v [C] = W_q h, W_k h, W_v h;  c = softmax(q . k_p / sqrt(C)) v_p;  l = W h + W_c c;  then sigmoid, bias and the k best.
    A window of 1 is the twin without context: the same parameters, c = v.
    """

    STATE, WINDOW = 16, 64

    def __init__(self, d, window=WINDOW):
        super().__init__(d, N_EXPERTS + 3 * self.STATE)
        self.window = window
        self.context = nn.Parameter(torch.randn(N_EXPERTS, self.STATE) / self.STATE**0.5 * 0.6)
        self.settings = dict(plugin="attention", k=TOP_K, state=self.STATE, window=window, score="sigmoid", bias=True, scale=SCALE)

    def logits(self, h):
        return F.linear(h, self.gate)

    def forward(self, h, where):
        l, q, k, v = self.logits(h).split([N_EXPERTS, self.STATE, self.STATE, self.STATE], 1)
        c = v
        if self.window > 1:
            rows = where.mask.shape[0]
            q, k, v = (t.reshape(rows, 1, -1, self.STATE) for t in (q, k, v))
            c = F.scaled_dot_product_attention(q, k, v, attn_mask=where.window(self.window)).reshape(len(h), self.STATE)
        s = (l + c @ self.context.T).sigmoid()
        ids = self.choose(s.detach())
        ids, w = self.finish(ids, normalised(s, ids), torch.ones_like(ids, dtype=torch.bool), where.valid)
        return ids, w, torch.zeros((), device=h.device)

    def tensors(self):
        return super().tensors() | {"context.weight": self.context}


class Dynamic(Router):
    """The fewest experts whose softmax sums to P, at most K_MAX (arXiv 2403.07652, whose loss for certainty keeps them few)."""

    K_MAX, P, CERTAINTY = 6, 0.7, 3e-3
    settings = dict(plugin="dynamic", k=K_MAX, by="top_p", threshold=P, scale=SCALE)

    def forward(self, h, where):
        s = self.logits(h).softmax(1)
        best, ids = s.topk(self.K_MAX, 1)
        kept = best.cumsum(1) - best < self.P
        w = torch.where(kept, best, 0)
        ids, w = self.finish(ids, w / (w.sum(1, keepdim=True) + 1e-20) * SCALE, kept, where.valid)
        entropy = -(s * s.clamp(min=1e-9).log()).sum(1)
        entropy = (entropy * where.valid).sum() / where.valid.sum().clamp(min=1)
        return ids, w, BALANCE * switch_loss(s, self.load, where.valid) + self.CERTAINTY * entropy


class Hash(Router):
    """The token's id names its experts; the gate only weighs them (arXiv 2106.04426; DeepSeek-V4's first layers)."""

    settings = dict(plugin="hash", k=TOP_K, table=True, score="sigmoid", scale=SCALE)

    def __init__(self, d, token_counts, seed):
        super().__init__(d)
        self.register_buffer("table", balanced_table(token_counts, seed))

    def forward(self, h, where):
        s = self.logits(h).sigmoid()
        ids = self.table[where.tokens.reshape(-1)]
        ids, w = self.finish(ids, normalised(s, ids), torch.ones_like(ids, dtype=torch.bool), where.valid)
        return ids, w, torch.zeros((), device=h.device)

    def tensors(self):
        return super().tensors() | {"token_experts": self.table}


def balanced_table(counts, seed):
    """[V, k]: from the commonest token down, each gets the experts with the least load so far, equal loads in random order."""
    rng = torch.Generator().manual_seed(seed)
    counts = counts.cpu()
    load = torch.zeros(N_EXPERTS)
    table = torch.zeros(len(counts), TOP_K, dtype=torch.int64)
    for token in counts.argsort(descending=True, stable=True):
        order = torch.randperm(N_EXPERTS, generator=rng)
        table[token] = order[load[order].argsort(stable=True)[:TOP_K]]
        load[table[token]] += counts[token]
    return table


# name -> router of a layer from (d, token counts, layer); None: a dense layer of the given multiple of an expert's width.
FAMILY = {
    "softmax": lambda d, counts, layer: Softmax(d),
    "sigmoid": lambda d, counts, layer: Sigmoid(d),
    "grouped": lambda d, counts, layer: Grouped(d),
    "hierarchical": lambda d, counts, layer: Hierarchical(d),
    "attention": lambda d, counts, layer: Attention(d),
    "attention-alone": lambda d, counts, layer: Attention(d, window=1),
    "dynamic": lambda d, counts, layer: Dynamic(d),
    "hash": lambda d, counts, layer: Hash(d, counts, layer),
}
DENSE = {"dense-active": TOP_K + 1, "dense-total": N_EXPERTS + 1}  # experts' widths, the shared one's included
