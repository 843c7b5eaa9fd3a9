"""The family's model: grouped-query attention with norms inside the heads, SwiGLU experts, one of them shared, first layer dense.

Parameters are f32 and cast where they are used; products are bf16 on a GPU. Nothing waits for the device and all shapes are fixed, so a
whole training step can be recorded as one CUDA graph: a step of a model this small is bound by launches otherwise.
"""
import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

import routers


@dataclasses.dataclass
class Shape:
    n_vocab: int
    d_model: int = 192
    n_layers: int = 5
    n_heads: int = 6
    n_kv_heads: int = 2
    head_dim: int = 32
    d_expert: int = 64
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


class Where:
    """Which token stands where in a batch of packed rows: tokens, document (0: padding) and position, each [rows, length]."""

    def __init__(self, tokens, document, position, dtype):
        self.tokens, self.position, self.dtype = tokens, position, dtype
        self.valid = (document > 0).reshape(-1)
        at = torch.arange(tokens.shape[1], device=tokens.device)
        self.distance = at[:, None] - at[None, :]
        self.same = (document[:, :, None] == document[:, None, :])[:, None]
        self.mask = self.bias(self.same & (self.distance >= 0), dtype)
        self.windows = {}

    @staticmethod
    def bias(seen, dtype):
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))

    def window(self, n):
        if n not in self.windows:
            self.windows[n] = self.bias(self.same & (self.distance >= 0) & (self.distance < n), torch.float32)
        return self.windows[n]


def linear(x, w):
    return F.linear(x, w.to(x.dtype))


def rms_norm(x, weight, eps):
    return F.rms_norm(x, weight.shape, weight, eps)


def matrix(*shape):
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5 * 0.6)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class SelfAttention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.norm = nn.Parameter(torch.ones(s.d_model))
        self.q, self.k = matrix(s.n_heads * s.head_dim, s.d_model), matrix(s.n_kv_heads * s.head_dim, s.d_model)
        self.v, self.o = matrix(s.n_kv_heads * s.head_dim, s.d_model), matrix(s.d_model, s.n_heads * s.head_dim)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(s.head_dim)), nn.Parameter(torch.ones(s.head_dim))

    def forward(self, x, where, cos, sin):
        s = self.s
        rows, length, _ = x.shape
        h = rms_norm(x, self.norm, s.norm_eps).to(where.dtype)
        q, k, v = linear(h, torch.cat([self.q, self.k, self.v])).split([s.n_heads * s.head_dim] + [s.n_kv_heads * s.head_dim] * 2, 2)
        q, k, v = (t.view(rows, length, -1, s.head_dim).transpose(1, 2) for t in (q, k, v))
        q = rotate(rms_norm(q.float(), self.q_norm, s.norm_eps), cos, sin).to(where.dtype)
        k = rotate(rms_norm(k.float(), self.k_norm, s.norm_eps), cos, sin).to(where.dtype)
        k, v = (t.repeat_interleave(s.n_heads // s.n_kv_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=where.mask)
        return linear(y.transpose(1, 2).reshape(rows, length, -1), self.o)


class Dense(nn.Module):
    """down (silu(gate x) * up x)"""

    def __init__(self, d, width):
        super().__init__()
        self.gate_up, self.down = matrix(2 * width, d), matrix(d, width)

    def forward(self, h):
        g, u = linear(h, self.gate_up).chunk(2, -1)
        return linear(F.silu(g) * u, self.down)


class Embed(torch.autograd.Function):
    """weight[ids]. Backwards is a product with the ids one-hot: the built-in one waits for the device or adds in any order."""

    @staticmethod
    def forward(ctx, weight, ids, dtype):
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype = weight.shape, dtype
        return weight[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        n, d = ctx.shape
        one_hot = (ids.reshape(-1, 1) == torch.arange(n, device=ids.device)).to(ctx.dtype)
        return (one_hot.T @ grad.reshape(-1, d).to(ctx.dtype)).float(), None, None


class Rows(torch.autograd.Function):
    """x[order // k]: a row for each choice, sorted by expert. Backwards is a sum over a token's k rows, by the inverse order: no atomics."""

    @staticmethod
    def forward(ctx, x, order, inverse, k):
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x[order // k]

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad[inverse].view(-1, ctx.k, grad.shape[1]).sum(1), None, None, None


class Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, to, back):
        ctx.save_for_backward(back)
        return x[to]

    @staticmethod
    def backward(ctx, grad):
        return grad[ctx.saved_tensors[0]], None, None


def grouped(x, w, ends):
    """Rows of x [n, in] by the matrix of their group: w [E, out, in], group e ends at row ends[e]."""
    w = w.to(x.dtype).transpose(1, 2)
    if x.is_cuda:
        return torch._grouped_mm(x, w, offs=ends)
    starts = [0, *ends.tolist()]
    return torch.cat([x[a:b] @ w[e] for e, (a, b) in enumerate(zip(starts, starts[1:]))])


class Experts(nn.Module):
    def __init__(self, s, router):
        super().__init__()
        self.router = router
        self.gate_up = matrix(routers.N_EXPERTS, 2 * s.d_expert, s.d_model)
        self.down = matrix(routers.N_EXPERTS, s.d_model, s.d_expert)
        self.shared = Dense(s.d_model, s.d_expert)

    def forward(self, h, where):
        x = h.reshape(-1, h.shape[-1])
        ids, weights, loss = self.router(x, where)
        k = ids.shape[1]
        x = x.to(where.dtype)
        expert, order = ids.reshape(-1).sort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        ends = torch.searchsorted(expert, torch.arange(1, routers.N_EXPERTS + 1, device=expert.device)).to(torch.int32)
        g, u = grouped(Rows.apply(x, order, inverse, k), self.gate_up, ends).chunk(2, -1)
        y = Permute.apply(grouped(F.silu(g) * u, self.down, ends), inverse, order)
        y = (y.view(len(x), k, -1) * weights[:, :, None].to(y.dtype)).sum(1)
        return (y + self.shared(x)).view(h.shape), loss


class Layer(nn.Module):
    def __init__(self, s, ffn):
        super().__init__()
        self.attention, self.ffn = SelfAttention(s), ffn
        self.norm = nn.Parameter(torch.ones(s.d_model))
        self.eps = s.norm_eps

    def forward(self, x, where, cos, sin):
        x = x + self.attention(x, where, cos, sin)
        h = rms_norm(x, self.norm, self.eps)
        if isinstance(self.ffn, Experts):
            y, loss = self.ffn(h, where)
            return x + y, loss
        return x + self.ffn(h.to(where.dtype)), 0


class Reasoner(nn.Module):
    """`router`: a name of routers.FAMILY or routers.DENSE."""

    def __init__(self, shape, router, token_counts):
        super().__init__()
        s = self.shape = shape
        dense_width = routers.DENSE.get(router, routers.TOP_K + 1) * s.d_expert
        self.dense_width = dense_width
        layers = [Layer(s, Dense(s.d_model, dense_width))]
        for layer in range(1, s.n_layers):
            if router in routers.DENSE:
                layers.append(Layer(s, Dense(s.d_model, dense_width)))
            else:
                layers.append(Layer(s, Experts(s, routers.FAMILY[router](s.d_model, token_counts, layer))))
        self.embed = nn.Parameter(torch.randn(s.n_vocab, s.d_model) * 0.02)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Parameter(torch.ones(s.d_model))
        self.head = matrix(s.n_vocab, s.d_model)
        half = s.head_dim // 2
        self.register_buffer("frequencies", s.rope_theta ** (-torch.arange(half) / half))

    def routers(self):
        return [l.ffn.router for l in self.layers if isinstance(l.ffn, Experts)]

    def forward(self, where):
        """(logits [rows, length, V], the routers' losses)"""
        angle = where.position[:, None, :, None].float() * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        x = Embed.apply(self.embed, where.tokens, where.dtype)
        loss = 0
        for layer in self.layers:
            x, of_router = layer(x, where, cos, sin)
            loss = loss + of_router
        return linear(rms_norm(x, self.norm, self.shape.norm_eps).to(where.dtype), self.head), loss
