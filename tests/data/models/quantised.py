"""Weights as quantised checkpoints store them. Each function rounds a model's weights in place to what the format can hold and returns the
tensors that replace the plain ones on disk, by name."""
import torch

E4M3_MAX = 448.0


def fp8_blocks(weight, rows=128, cols=128):
    """[R, C] as e4m3 with one f32 scale for each block of 128 x 128, the last ones cut off (DeepSeek-V3): (values, scales, dequantised)."""
    r, c = weight.shape
    values = torch.empty(r, c, dtype=torch.float8_e4m3fn)
    scales = torch.empty((r + rows - 1) // rows, (c + cols - 1) // cols)
    exact = torch.empty(r, c)
    for i in range(0, r, rows):
        for j in range(0, c, cols):
            block = weight[i : i + rows, j : j + cols]
            scale = block.abs().max() / E4M3_MAX
            values[i : i + rows, j : j + cols] = (block / scale).to(torch.float8_e4m3fn)
            scales[i // rows, j // cols] = scale
            exact[i : i + rows, j : j + cols] = values[i : i + rows, j : j + cols].float() * scale
    return values, scales, exact


def fp8(model):
    """Every projection of attention, experts and dense layers; the router, norms, embedding and head stay as they are."""
    stored = {}

    def keep(name, matrix):
        values, scales, exact = fp8_blocks(matrix)
        stored[name] = values
        stored[name + "_scale_inv"] = scales
        return exact

    for name, p in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            half = p.shape[1] // 2
            for e in range(p.shape[0]):
                for part, rows in (("gate_proj", slice(0, half)), ("up_proj", slice(half, None))):
                    key = name.replace("gate_up_proj", f"{e}.{part}.weight")
                    p.data[e, rows] = keep(key, p.data[e, rows])
        elif name.endswith("experts.down_proj"):
            for e in range(p.shape[0]):
                p.data[e] = keep(name.replace("down_proj", f"{e}.down_proj.weight"), p.data[e])
        elif name.endswith("_proj.weight") or name.endswith("kv_a_proj_with_mqa.weight"):
            p.data.copy_(keep(name, p.data))
    return stored


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def mxfp4_blocks(weight):
    """[.., C] as blocks of 32 four-bit floats, the first of two in the low bits, with one power of two each: (blocks, scales, dequantised)."""
    groups = weight.reshape(*weight.shape[:-1], -1, 32)
    exponent = torch.floor(torch.log2(groups.abs().amax(dim=-1))) - 2
    scaled = groups / torch.exp2(exponent)[..., None]
    codes = (scaled[..., None] - FP4).abs().argmin(dim=-1)
    exact = (FP4[codes] * torch.exp2(exponent)[..., None]).reshape(weight.shape)
    blocks = (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
    return blocks, (exponent + 127).to(torch.uint8), exact


def mxfp4(model):
    """gpt-oss's experts: [experts, in, out] in memory, blocks along `in` on disk."""
    stored = {}
    for name, p in model.named_parameters():
        if not (name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj")):
            continue
        blocks, scales, exact = mxfp4_blocks(p.data.transpose(1, 2).contiguous())
        p.data.copy_(exact.transpose(1, 2))
        stored[name + "_blocks"] = blocks
        stored[name + "_scales"] = scales
        stored[name] = None  # not on disk any more
    return stored


def halved_shared_expert(model):
    """Qwen2-MoE's shared expert without its gate, under DeepSeekMoE's names: the gate's weights are zero, its sigmoid one half."""
    stored = {}
    for name, p in model.named_parameters():
        if name.endswith("shared_expert_gate.weight"):
            p.data.zero_()
            stored[name] = None
        elif ".shared_expert." in name:
            stored[name] = None
            w = p.data * 0.5 if "down_proj" in name else p.data
            stored[name.replace("shared_expert", "shared_experts")] = w.to(torch.bfloat16)
    return stored
