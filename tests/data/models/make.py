#!/usr/bin/env python3
"""Makes the tiny checkpoints of this folder and what the reference implementation computes on them.

    python3 make.py [CASE...]        (needs torch, transformers 5, safetensors, numpy; building and testing the project do not)

Every case of cases.py becomes a folder: config.json and weights as `transformers` (or the model's first checkpoint) spells them, and
expected.json with a prompt, the greedy continuation and what each router decided, expected_logits.npy with the prompt's logits in f32.
Weights are random but large enough that logits are far apart and that no router is near a tie; a case that is not is refused.
"""
import json
import math
import pathlib
import re
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import cases

HERE = pathlib.Path(__file__).resolve().parent
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def standard_deviation(name, p):
    """Of a weight's values: activations keep about their size from layer to layer, routers and logits are spread."""
    if p.ndim == 1:
        return 0.2
    fan_in = p.shape[-1]
    if re.search(r"experts\.(gate_up_proj|down_proj)$", name) and p.ndim == 3 and cases.stored_input_first(name):
        fan_in = p.shape[-2]
    if "embed_tokens" in name:
        return 1.0
    if re.search(r"(router|gate|wg)(\.layer)?\.weight$", name):
        return 2.5 / math.sqrt(fan_in)
    return 1.3 / math.sqrt(fan_in)


def fill(model, seed, bias):
    generator = torch.Generator().manual_seed(seed)
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if "inv_freq" in name or p.ndim == 0 or not p.is_floating_point():
            continue
        values = torch.randn(p.shape, generator=generator) * standard_deviation(name, p)
        if p.ndim == 1 and "norm" in name and name.endswith("weight"):
            values = 1 + values
        if "e_score_correction_bias" in name:
            values += bias
        p.data.copy_(values.to(torch.bfloat16).to(p.dtype))


def as_version_4(config):
    """config.json as transformers 4 wrote it: rope_theta and rope_scaling, torch_dtype."""
    for part in [config] + [v for k, v in config.items() if k == "text_config"]:
        rope = part.pop("rope_parameters", None)
        if rope is not None:
            part["rope_theta"] = rope.pop("rope_theta", None)
            partial = rope.pop("partial_rotary_factor", None)
            if partial is not None:
                part["partial_rotary_factor"] = partial
            kind = rope.pop("rope_type", "default")
            part["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        if "dtype" in part:
            part["torch_dtype"] = part.pop("dtype")
    config["transformers_version"] = "4.57.1"
    return config


class Routes:
    """What the routers returned, by name: [null, weights, ids]."""

    def __init__(self, model):
        self.by_name = {}
        for name, module in model.named_modules():
            if re.search(r"(Router|Gate)$", type(module).__name__) and "Statics" not in type(module).__name__:
                index = int(re.search(r"layers\.(\d+)\.", name).group(1))
                module.register_forward_hook(lambda m, args, out, key=f"layer_{index:03}": self.keep(key, m, out))

    def keep(self, key, module, out):
        if len(out) == 3:
            weights, ids = out[1], out[2]
        else:  # scores that are zero where an expert is not chosen
            weights, ids = torch.topk(out[0], module.top_k, dim=1)
        self.by_name[key] = [None, [[round(w, 7) for w in row] for row in weights.double().reshape(-1, weights.shape[-1]).tolist()], ids.reshape(-1, ids.shape[-1]).tolist()]


def logits_of(model, ids):
    with torch.no_grad():
        return getattr(model, "computes", model)(torch.tensor([ids]), use_cache=False).logits[0].float()


def measure(model, ids, n_greedy):
    routes = Routes(model)
    logits = logits_of(model, ids)
    by_layer = dict(routes.by_name)
    greedy, margin = [], math.inf
    text = list(ids)
    for _ in range(n_greedy):
        last = logits_of(model, text)[-1]
        best = torch.topk(last, 2).values
        margin = min(margin, float(best[0] - best[1]) / float(last.abs().max()))
        greedy.append(int(last.argmax()))
        text.append(greedy[-1])
    return logits, by_layer, greedy, margin


def is_clear(model, ids, logits, margin):
    """Whether rounding decides nothing: weights a few rounding errors away give the same; greedy tokens and logits are apart."""
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    largest = float(logits.abs().max())
    apart = 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.data *= 1 + 4e-7 * torch.randn(p.shape, generator=generator)
        apart = max(apart, float((logits_of(model, ids) - logits).abs().max()) / largest)
        model.load_state_dict(kept)
    spread = float(logits.std(dim=0).mean()) / largest
    return apart < 2e-5 and margin > 2e-3 and spread > 0.05, f"apart {apart:.1e}, margin {margin:.1e}, spread {spread:.2f}"


def save(case, model, replaced, folder):
    if folder.exists():
        shutil.rmtree(folder)
    stored = model.to(torch.bfloat16)
    for name, b in stored.named_buffers():
        if "e_score_correction_bias" in name:
            b.data = b.data.float()
    stored.save_pretrained(folder, max_shard_size=case.get("shard", "1GB"), save_original_format=case.get("layout") != "memory")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if replaced or "more_tensors" in case:
        tensors = load_file(folder / "model.safetensors") | replaced | case.get("more_tensors", {})
        save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    if case.get("spelling") == 4:
        config = as_version_4(config)
    for key in case.get("drop", []):
        config.pop(key, None)
    config |= case.get("extra", {})
    (folder / "config.json").write_text(json.dumps(config, indent=0) + "\n")


def make(name, case, folder, n_tokens=22, n_greedy=8):
    config = transformers.AutoConfig.for_model(case["model_type"], **case["config"])
    text = config.get_text_config()
    for seed in range(case.get("seed", 1), 400):
        torch.manual_seed(seed)
        model_class = getattr(transformers, case["class"]) if "class" in case else transformers.AutoModelForCausalLM
        make_model = model_class._from_config if "class" in case else model_class.from_config
        model = make_model(config, attn_implementation="eager", experts_implementation="eager").eval().float()
        if "part" in case:
            object.__setattr__(model, "computes", getattr(model, case["part"]))
        fill(model, seed, case.get("bias", 0.0))
        replaced = case["quantise"](model) if "quantise" in case else {}
        generator = np.random.default_rng(seed)
        ids = [int(i) for i in generator.integers(2, text.vocab_size, n_tokens)]
        logits, routes, greedy, margin = measure(model, ids, n_greedy)
        good, why = is_clear(model, ids, logits, margin)
        if good:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a clear case: {why}")
    save(case, model, replaced, folder)
    if not replaced:  # what is on disk is what was computed, by the reference's own reading of it
        again = (getattr(transformers, case["class"]) if "class" in case else transformers.AutoModelForCausalLM).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
        if "part" in case:
            object.__setattr__(again, "computes", getattr(again, case["part"]))
        apart = float((logits_of(again, ids) - logits).abs().max())
        if not apart <= 1e-5 * float(logits.abs().max()):
            raise SystemExit(f"{name}: the checkpoint gives other logits when it is read again: {apart}")
    np.save(folder / "expected_logits.npy", logits.numpy().astype(np.float32))
    (folder / "expected.json").write_text(json.dumps({"input_ids": ids, "greedy": greedy, "routes": routes}, separators=(",", ":")) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, {why}, {size / 1024:.0f} KiB", flush=True)


def main():
    wanted = sys.argv[1:] or list(cases.CASES)
    for name in wanted:
        make(name, cases.CASES[name], HERE / name)


if __name__ == "__main__":
    main()
