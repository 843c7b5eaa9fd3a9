#!/usr/bin/env python3
"""Makes the fixtures of this folder and the corpora of the two readers with the `safetensors` and `gguf` Python packages.

Needs numpy, gguf and safetensors. The files are committed: neither the build nor the tests run this.
"""
import pathlib
import struct

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, quants
from safetensors import serialize_file
from safetensors._safetensors_rust import TensorSpec
from safetensors.numpy import save_file

DATA = pathlib.Path(__file__).resolve().parent
CORPUS = DATA.parent / "corpus"


def make_safetensors():
    keep = []

    def tensor(dtype, data, shape):
        array = np.frombuffer(data or b"\0", dtype=np.uint8)
        keep.append(array)
        return TensorSpec(dtype=dtype, shape=shape, data_ptr=array.ctypes.data, data_len=len(data))

    bf16 = (np.array([1, -2, 0.5, 3], dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    serialize_file(
        {
            "f32": tensor("float32", np.arange(6, dtype=np.float32).tobytes(), [2, 3]),
            "f16": tensor("float16", np.array([1, 2, -3, 0.5, 65504], dtype=np.float16).tobytes(), [5]),
            "bf16": tensor("bfloat16", bf16.tobytes(), [2, 2]),
            "f8": tensor("float8_e4m3fn", bytes([0x38, 0x7E, 0x81]), [3, 1]),
            "i32": tensor("int32", np.arange(4, dtype=np.int32).tobytes(), [4]),
            "u8": tensor("uint8", bytes(range(6)), [1, 2, 3]),
            "i64": tensor("int64", np.array([-1], dtype=np.int64).tobytes(), [1]),
            "bool": tensor("bool", bytes([0, 1]), [2]),
            "scalar": tensor("float32", np.float32(7).tobytes(), []),
            "empty": tensor("float32", b"", [0, 3]),
        },
        str(DATA / "python.safetensors"),
        {"format": "pt"},
    )


def finish(writer, path):
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_gguf():
    rng = np.random.default_rng(7)
    expected = {}
    writer = GGUFWriter(None, "test")

    def random_f16(n):  # finite, all magnitudes with subnormals, both signs
        return rng.integers(0, 0x7C00, n).astype(np.uint16) | (rng.integers(0, 2, n).astype(np.uint16) << 15)

    def random_blocks(q, n, f16_at):
        blocks = rng.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[q][1])).astype(np.uint8)
        for at in f16_at:
            blocks[:, at : at + 2] = random_f16(n).view(np.uint8).reshape(n, 2)
        return blocks

    def add(name, raw, q):
        writer.add_tensor(name, raw, raw_dtype=q)
        with np.errstate(all="ignore"):
            expected[name] = np.ascontiguousarray(quants.dequantize(raw, q).astype(np.float32)).reshape(-1)

    writer.add_uint8("t.u8", 250)
    writer.add_int8("t.i8", -5)
    writer.add_uint16("t.u16", 65000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4000000000)
    writer.add_int32("t.i32", -2000000000)
    writer.add_float32("t.f32", 1.5)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "Grüße")
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float64("t.f64", 0.1)
    writer.add_token_list(["<s>", "a", "é", ""])
    writer.add_token_scores([0.0, -1.0, -2.5, 3.0])
    writer.add_token_types([1, 2, 3, 4])
    writer.add_array("t.bools", [True, False, True])

    x = (rng.standard_normal((4, 64)) * 3).astype(np.float32)
    for q in (Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.BF16):
        add(q.name.lower() + ".quantized", quants.quantize(x, q), q)
    f16_at = {Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}
    for q, at in f16_at.items():
        n = 32 if gguf.GGML_QUANT_SIZES[q][0] == 32 else 6
        add(q.name.lower() + ".random", random_blocks(q, n, at).reshape(2, -1), q)
    mxfp4 = rng.integers(0, 256, (256, 17)).astype(np.uint8)
    mxfp4[:, 0] = np.arange(256)  # every scale
    add("mxfp4.random", mxfp4, Q.MXFP4)
    writer.add_tensor("f16.quantized", x.astype(np.float16))
    expected["f16.quantized"] = x.astype(np.float16).astype(np.float32).reshape(-1)
    writer.add_tensor("f32.quantized", x)
    expected["f32.quantized"] = x.reshape(-1)
    writer.add_tensor("i32", np.arange(6, dtype=np.int32).reshape(3, 2))
    finish(writer, DATA / "python.gguf")
    save_file(expected, DATA / "python.gguf.expected.safetensors")

    writer = GGUFWriter(None, "test", split_max_tensors=2)
    writer.add_string("t.string", "first")
    for i in range(5):
        writer.add_tensor(f"w{i}", np.full((2, 3), i, np.float32))
    finish(writer, DATA / "split.gguf")

    writer = GGUFWriter(None, "test")
    writer.add_token_list(["a", "bc"])
    writer.add_bool("b", True)
    writer.add_custom_alignment(32)
    writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("q", quants.quantize(np.ones((1, 32), np.float32), Q.Q4_0), raw_dtype=Q.Q4_0)
    finish(writer, DATA / "small.gguf")


def write_corpora():
    def header(text, n_data):
        return struct.pack("<Q", len(text)) + text.encode() + b"\1" * n_data

    entry = '{"dtype":"U8","shape":[4],"data_offsets":[%d,%d]}'
    safetensors = {
        "empty": header("{}", 0),
        "metadata": header('{"__metadata__":{"format":"pt","\\u00e9\\n":"x"}}', 0),
        "three": header(
            '{"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},"a":{"data_offsets":[0,4],"shape":[1,2],"dtype":"BF16"},'
            '"s":{"dtype":"F32","shape":[],"data_offsets":[6,10]}}  ',
            10,
        ),
        "zero": header('{"e":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}}', 0),
        "wrap": header('{"w":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}', 4),
        "overlap": header('{"a":%s,"b":%s}' % (entry % (0, 4), entry % (2, 6)), 8),
        "surrogates": header('{"\\ud83d\\ude00":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}', 4),
        "length": struct.pack("<Q", 1 << 63) + b"{}",
        "python": (DATA / "python.safetensors").read_bytes(),
    }

    def pair(key, kind, value):
        return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value

    start = lambda version, n_tensors, n_pairs: b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    values = {kind: b"\1" * n for kind, n in widths.items()} | {8: struct.pack("<Q", 2) + b"hi"}
    pairs = [pair(bytes([97 + k]), k, v) for k, v in values.items()]
    pairs += [pair(bytes([65 + k]), 9, struct.pack("<IQ", k, 1) + v) for k, v in values.items()]
    files = {
        "small": (DATA / "small.gguf").read_bytes(),
        "part": (DATA / "split-00001-of-00003.gguf").read_bytes(),
        "header": start(3, 0, 0),
        "nested": start(3, 0, 1) + pair(b"a", 9, struct.pack("<IQ", 9, 1) + b"\0" * 16),
        "counts": start(3, 1 << 60, 1 << 60) + b"\0" * 64,
        "types": start(2, 0, len(pairs)) + b"".join(pairs),
    }
    for name, seeds in (("safetensors", safetensors), ("gguf", files)):
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for seed, data in seeds.items():
            (CORPUS / name / seed).write_bytes(data)


if __name__ == "__main__":
    make_safetensors()
    make_gguf()
    write_corpora()
