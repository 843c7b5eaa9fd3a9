"""The training set: problems as token ids, packed into rows of fixed length, so that every step has the same shapes."""
import argparse
import multiprocessing
import pathlib
import time

import numpy as np
from tokenizers import Tokenizer

import problems

ROW = 256
CHUNK = 10_000
N_TEST = 1000


def encode(args):
    """(tokens, prompt length) of each problem of a chunk that is not in the test set."""
    tokenizer_file, seed = args
    tokenizer = Tokenizer.from_file(tokenizer_file)
    held_out = {q for _, q, _, _ in problems.problems(problems.TEST_SEED, N_TEST)}
    kept = [p for p in problems.problems(f"train {seed}", CHUNK) if p[1] not in held_out]
    prompts = tokenizer.encode_batch_fast([problems.prompt(q) for _, q, _, _ in kept], add_special_tokens=False)
    answers = tokenizer.encode_batch_fast([problems.response(t, a) for _, _, t, a in kept], add_special_tokens=False)
    return [(np.array(p.ids + a.ids, np.int16), len(p.ids)) for p, a in zip(prompts, answers)]


def pack(examples):
    """Whole problems into rows of ROW tokens: what fits best goes next. Padding has document 0 and position 0.

    Returns tokens [rows, ROW] i16, document in its row from 1, position in its document, and whether the token is one to learn (u8 all).
    """
    by_length = [[] for _ in range(ROW + 1)]
    for i, (ids, _) in enumerate(examples):
        if len(ids) <= ROW:
            by_length[len(ids)].append(i)
    longest = np.array([len(b) for b in by_length])
    order = [i for i, (ids, _) in enumerate(examples) if len(ids) <= ROW]
    used = np.zeros(len(examples), bool)
    rows = []
    for first in order:  # the order of the examples is random already
        if used[first]:
            continue
        row, room, take = [], ROW, first
        while take is not None:
            used[take] = True
            row.append(take)
            length = len(examples[take][0])
            longest[length] -= 1
            room -= length
            fitting = np.nonzero(longest[: room + 1])[0]
            take = None
            if len(fitting):
                bucket = by_length[fitting[-1]]
                while used[bucket[-1]]:
                    bucket.pop()
                take = bucket.pop()
        rows.append(row)
    tokens, document, position, learn = (np.zeros((len(rows), ROW), t) for t in (np.int16, np.uint8, np.uint8, np.uint8))
    for r, row in enumerate(rows):
        at = 0
        for d, i in enumerate(row):
            ids, n_prompt = examples[i]
            end = at + len(ids)
            tokens[r, at:end] = ids
            document[r, at:end] = d + 1
            position[r, at:end] = np.arange(len(ids))
            learn[r, at + n_prompt : end] = 1
            at = end
    return dict(tokens=tokens, document=document, position=position, learn=learn)


def make(tokenizer_file, n_problems, processes):
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        parts = pool.map(encode_and_pack, [(tokenizer_file, s) for s in range(max(1, n_problems // CHUNK))], chunksize=1)
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def encode_and_pack(args):
    return pack(encode(args))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", required=True, help="folder for one .npy an array")
    args = parser.parse_args()
    start = time.time()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    arrays = make(args.tokenizer, args.problems, args.processes)
    for key, array in arrays.items():
        np.save(out / f"{key}.npy", array)
    rows, full = arrays["tokens"].shape[0], (arrays["document"] > 0).mean()
    print(f"{rows} rows of {ROW} tokens, {full:.1%} full, {arrays['learn'].mean():.1%} to learn; {time.time() - start:.0f} s")
