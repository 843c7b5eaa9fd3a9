"""Trains many models, a queue over the GPUs: family.py --out DIR [--models NAME:SEED ...] [-- options of train.py]. See README.md."""
import argparse
import os
import pathlib
import subprocess
import sys
import threading
import time

import torch

import routers

# Three seeds of the pair whose difference is the question; one of the others.
DEFAULT = [f"{name}:{seed}" for seed in (0, 1, 2) for name in ("attention", "attention-alone")]
DEFAULT += [f"{name}:0" for name in (*routers.FAMILY, *routers.DENSE) if not name.startswith("attention")]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", required=True)
parser.add_argument("--models", nargs="+", default=DEFAULT)
parser.add_argument("--workers", type=int, default=2, help="models that share a GPU")
parser.add_argument("options", nargs="*", help="after --: for train.py")
args = parser.parse_args()

queue, lock, failed = list(args.models), threading.Lock(), []
start = time.time()


def work(gpu):
    while True:
        with lock:
            if not queue:
                return
            name, seed = queue.pop(0).split(":")
        out = pathlib.Path(args.out) / f"{name}-{seed}"
        command = [sys.executable, pathlib.Path(__file__).with_name("train.py"), "--router", name, "--seed", seed, "--out", out, *args.options]
        if subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu}).returncode != 0:
            failed.append(f"{name}:{seed}")
        print(f"{name}:{seed} ended at {time.time() - start:.0f} s", flush=True)


threads = [threading.Thread(target=work, args=(str(gpu),)) for _ in range(args.workers) for gpu in range(max(1, torch.cuda.device_count()))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(f"failed: {' '.join(failed)}" if failed else 0)
