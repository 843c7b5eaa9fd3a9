"""Trains one model of the family and exports it. See README.md."""
import argparse
import math
import pathlib
import time

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

import problems
import routers
from data import N_TEST
from export import export
from model import Reasoner, Shape, Where

WARM_UP, WEIGHT_DECAY, BETAS, CLIP = 200, 0.05, (0.9, 0.98), 1.0
BIAS_STEP = (5e-3, 2e-4)  # of a bias that follows the load: at first, at the end


def fraction(step, steps):
    return min(1.0, step / steps)


def learning_rate(step, steps, peak):
    return peak * min(1, (step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction(step, steps))))


class Step:
    """One training step over rows of the data set, which lies on the device; a CUDA graph where there is CUDA."""

    def __init__(self, model, arrays, batch, compiled):
        self.model, self.arrays = model, arrays
        device = arrays["tokens"].device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.rows = torch.zeros(batch, dtype=torch.int64, device=device)
        self.lr, self.bias_step = torch.zeros((), device=device), torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        decay = [p for p in model.parameters() if p.dim() >= 2]
        plain = [p for p in model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [dict(params=decay, weight_decay=WEIGHT_DECAY), dict(params=plain, weight_decay=0.0)],
            lr=self.lr, betas=BETAS, fused=True, **(dict(capturable=True) if device.type == "cuda" else {}))
        self.forward = torch.compile(self.forward_loss) if compiled else self.forward_loss
        self.graph = None
        if device.type == "cuda":
            self.record()

    def forward_loss(self, tokens, document, position, learn):
        where = Where(tokens.long(), document, position, self.dtype)
        logits, of_routers = self.model(where)
        wanted = torch.where(learn[:, 1:] > 0, tokens[:, 1:].long(), -100)
        loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]).float(), wanted.reshape(-1), ignore_index=-100)
        return loss, loss + of_routers

    def run(self):
        batch = [self.arrays[k][self.rows] for k in ("tokens", "document", "position", "learn")]
        loss, total = self.forward(*batch)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            self.loss.copy_(loss)
            for router in self.model.routers():
                router.balance(self.bias_step)

    def record(self):
        """Warm-up runs with a learning rate of 0 change nothing but the optimizer's moments, which are put back to 0."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.run()
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def __call__(self, rows, lr, bias_step):
        self.rows.copy_(rows)
        self.lr.fill_(lr)
        self.bias_step.fill_(bias_step)
        self.graph.replay() if self.graph else self.run()


@torch.no_grad()
def answers(model, tokenizer, questions, device, max_tokens=180, batch=500):
    """Greedy, by the whole row anew for each token: simple, and quick enough for models this small."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    texts = []
    for first in range(0, len(questions), batch):
        prompts = [tokenizer.encode(problems.prompt(q), add_special_tokens=False).ids for q in questions[first : first + batch]]
        ends = torch.tensor([len(p) for p in prompts], device=device)
        length = int(ends.max()) + max_tokens
        tokens = torch.ones(len(prompts), length, dtype=torch.int64, device=device)
        for row, p in zip(tokens, prompts):
            row[: len(p)] = torch.tensor(p)
        position = torch.arange(length, device=device).expand(len(prompts), -1)
        each, done = torch.arange(len(prompts), device=device), torch.zeros(len(prompts), dtype=torch.bool, device=device)
        while int(ends.max()) < length and not bool(done.all()):
            n = int(ends.max())
            logits, _ = model(Where(tokens[:, :n], torch.ones_like(tokens[:, :n]), position[:, :n], dtype))
            token = logits[each, ends - 1].argmax(1)
            tokens[each, ends] = torch.where(done, 1, token)
            done |= token == 1
            ends = torch.where(done, ends, ends + 1)
        for row, p in zip(tokens.tolist(), prompts):
            texts.append(tokenizer.decode(row[len(p) :], skip_special_tokens=False).split(problems.EOS)[0])
    return texts


def accuracy(model, tokenizer, n, device):
    """{kind: [right, of]} over the first n problems of the test set."""
    test = problems.problems(problems.TEST_SEED, N_TEST)[:n]
    by_kind = {}
    for (kind, _, _, answer), text in zip(test, answers(model, tokenizer, [q for _, q, _, _ in test], device)):
        entry = by_kind.setdefault(kind, [0, 0])
        entry[0] += text.split("</think>")[-1].strip() == answer
        entry[1] += 1
    return dict(sorted(by_kind.items()))


def train(args):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    data = pathlib.Path(args.data)
    arrays = {k: torch.from_numpy(np.load(data / f"{k}.npy")).to(device) for k in ("tokens", "document", "position", "learn")}
    tokenizer_dir = pathlib.Path(args.tokenizer)
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    n_vocab = tokenizer.get_vocab_size()
    counts = torch.bincount(arrays["tokens"][arrays["document"] > 0].int(), minlength=n_vocab)
    model = Reasoner(Shape(n_vocab), args.router, counts).to(device)
    n_rows = len(arrays["tokens"])
    rng = torch.Generator().manual_seed(args.seed)
    order = torch.cat([torch.randperm(n_rows, generator=rng) for _ in range(args.steps * args.batch // n_rows + 1)]).to(device)
    step = Step(model, arrays, args.batch, args.compile)
    start = time.time()
    for i in range(args.steps):
        at = fraction(i, args.steps)
        step(order[i * args.batch : (i + 1) * args.batch], learning_rate(i, args.steps, args.lr), BIAS_STEP[0] * (1 - at) + BIAS_STEP[1])
        if i + 1 in (10, 100) or (i + 1) % args.report == 0:
            hottest = max((float(r.load.max()) * routers.N_EXPERTS for r in model.routers()), default=1)
            print(f"{args.router} {args.seed}: step {i + 1}, {time.time() - start:.1f} s, loss {float(step.loss):.4f}, "
                  f"hottest expert {hottest:.2f} x even", flush=True)
    seconds = time.time() - start
    record = dict(router=args.router, seed=args.seed, steps=args.steps, rows_a_step=args.batch, lr=args.lr, rows=n_rows,
                  parameters=sum(p.numel() for p in model.parameters()), seconds=round(seconds, 1), loss=float(step.loss),
                  torch=torch.__version__, device=torch.cuda.get_device_name() if device == "cuda" else "cpu")
    if args.test:
        record["accuracy"] = accuracy(model, tokenizer, args.test, device)
        right = sum(r for r, _ in record["accuracy"].values())
        print(f"{args.router} {args.seed}: {right} of {args.test} right; trained in {seconds:.0f} s, tested in {time.time() - start - seconds:.0f} s",
              record["accuracy"], flush=True)
    export(model, tokenizer_dir, args.out, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--router", required=True, choices=[*routers.FAMILY, *routers.DENSE])
    parser.add_argument("--data", required=True, help="folder that data.py wrote")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json and the chat template")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=192, help="rows of 256 tokens a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", type=int, default=N_TEST, help="problems of the test set to answer at the end")
    parser.add_argument("--report", type=int, default=500, help="steps between two lines")
    parser.add_argument("--compile", action="store_true", help="torch.compile; a minute at the start, faster steps")
    train(parser.parse_args())
