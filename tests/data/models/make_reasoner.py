#!/usr/bin/env python3
"""Makes the tiny checkpoints reasoner_*: what tools/train exports, with random weights, and what its PyTorch model computes on them.

    python3 make_reasoner.py         (needs what tools/train needs; building and testing the project do not)
"""
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tools/train"))

import export
from model import Reasoner, Shape, Where

N_VOCAB, N_PROMPT, N_GREEDY = 320, 24, 16


@torch.no_grad()
def make(router, seed):
    torch.manual_seed(seed)
    model = Reasoner(Shape(N_VOCAB, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, d_expert=8), router, torch.zeros(N_VOCAB))
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith(("norm", "bias")):
            p += torch.randn(p.shape) * 0.2
        elif p.dim() >= 2:  # larger than at the start of training, so that routers and logits are far from ties
            p.copy_(torch.randn(p.shape) * (1.0 if name == "embed" else (2.5 if "router" in name else 1.3) / p.shape[-1] ** 0.5))
    folder = HERE / f"reasoner_{router}"
    folder.mkdir(exist_ok=True)
    save_file({n: export.stored(n, x).contiguous() for n, x in export.views(model).items()}, folder / "model.safetensors")
    export.load(model, folder)
    (folder / "config.json").write_text(json.dumps(export.config(model), indent=1) + "\n")

    def run(ids):
        ids = torch.tensor([ids])
        return model(Where(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], torch.float32))[0][0]

    ids = torch.randint(0, N_VOCAB, (N_PROMPT,)).tolist()
    routes = {}
    hooks = [r.register_forward_hook(lambda _, __, out, name=f"layer{i}": routes.update({name: [None, out[1].tolist(), out[0].tolist()]}))
             for i, r in enumerate(model.routers())]
    logits = run(ids)
    for hook in hooks:
        hook.remove()
    greedy = []
    while len(greedy) < N_GREEDY:
        best = run(ids + greedy)[-1].topk(2)
        assert best.values[0] - best.values[1] > 1e-3 * best.values[0].abs(), "near a tie: another seed"
        greedy.append(int(best.indices[0]))
    np.save(folder / "expected_logits.npy", logits.numpy())
    (folder / "expected.json").write_text(json.dumps(dict(input_ids=ids, greedy=greedy, routes=routes)) + "\n")


for router, seed in {"attention": 1, "dynamic": 2, "hierarchical": 3}.items():
    make(router, seed)
