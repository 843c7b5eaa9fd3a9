"""Speeds of transformers on the shape of OLMoE-1B-7B, bf16, random weights: python3 tests/gpu/peers.py [--compile]

Prints prefill of one prompt of 2,048 tokens, decoding at a context of 512 with 1 and 32 requests, and with --compile decoding of one
request as CUDA graphs over a static cache. Medians.
"""

import statistics
import sys
import time

import torch
import transformers

CONTEXT, STEPS = 512, 32


def model():
    config = transformers.OlmoeConfig(
        hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=16, num_experts=64,
        num_experts_per_tok=8, vocab_size=50304, max_position_embeddings=4096)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return transformers.OlmoeForCausalLM(config).eval()


def seconds(run, rounds=5):
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def prompt(batch, length):
    return torch.randint(1000, 50000, (batch, length), device="cuda")


def decode(m, step, batch, cache):
    """Tokens a second of `batch` requests after a prompt of CONTEXT tokens, by step(ids, position, cache)."""
    ids = m(prompt(batch, CONTEXT), past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    times = []
    for i in range(STEPS + 8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        ids = step(ids, torch.tensor([CONTEXT + i], device="cuda"), cache)[:, -1:].argmax(-1).clone()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times[8:])


@torch.inference_mode()
def main():
    m = model()
    one = prompt(1, 2048)
    m(one)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    print(f"prefill of 2,048: {2048 / seconds(lambda: m(one)):,.0f} tokens/s")

    def forward(ids, position, cache):
        return m(ids, past_key_values=cache, cache_position=position, use_cache=True).logits

    for batch in (1, 32):
        print(f"decode, batch {batch}: {decode(m, forward, batch, transformers.DynamicCache()):,.1f} tokens/s", flush=True)
    if "--compile" in sys.argv:
        compiled = torch.compile(forward, mode="reduce-overhead", fullgraph=False)
        cache = transformers.StaticCache(config=m.config, max_cache_len=1024)
        print(f"decode, batch 1, compiled: {decode(m, compiled, 1, cache):,.1f} tokens/s", flush=True)


main()
