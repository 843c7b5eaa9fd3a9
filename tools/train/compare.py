"""Whether Patchbay and PyTorch agree on an exported model: logits of one problem with its worked answer, in f32 on both sides."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from tokenizers import Tokenizer

import problems
from export import load
from model import Reasoner, Shape, Where

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--patchbay", default="patchbay", help="the program")
parser.add_argument("--set", action="append", default=[], help="passed on to it")
parser.add_argument("models", nargs="+")
args = parser.parse_args()

worst = 0.0
for path in map(pathlib.Path, args.models):
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    model = Reasoner(Shape(tokenizer.get_vocab_size()), json.loads((path / "training.json").read_text())["router"], torch.zeros(tokenizer.get_vocab_size()))
    load(model, path)
    text = "".join(problems.prompt(q) + problems.response(t, a) for _, q, t, a in problems.problems("compare", 3))
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    with torch.no_grad():
        want, _ = model(Where(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = pathlib.Path(folder) / "ids.json", pathlib.Path(folder) / "logits.npy"
        tokens.write_text(json.dumps(ids[0].tolist()))
        command = [args.patchbay, "logits", "--model", path, "--tokens", tokens, "--out", out, "--set", 'model.precision="fp32"']
        subprocess.run(command + [x for s in args.set for x in ("--set", s)], check=True, stdout=subprocess.DEVNULL)
        got = np.load(out)
    error = np.abs(got - want[0].numpy()).max() / want.abs().max().item()
    print(f"{path.name}: largest difference {error:.1e} of the largest logit, over {ids.shape[1]} tokens")
    worst = max(worst, error) if error == error else float("inf")
sys.exit(1 if worst > 1e-4 else 0)
