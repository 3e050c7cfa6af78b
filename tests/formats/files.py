"""Models of diffusers and files of other programs, made small for the tests, and their names restated."""

import json
import re
import struct

import diffusers
import torch
from safetensors.torch import save_file

SD1 = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
}
SD2 = {
    **SD1,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
}
SDXL = {
    **SD2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 16 + 6 * 256,
}


def randomise(module, seed=0, scale=0.8):
    """Every parameter random, norms and biases too, so that no misplaced tensor can go unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.2 * noise + name.endswith("weight"))
            else:
                parameter.copy_(scale * noise / parameter[0].numel() ** 0.5)
    return module.eval()


def unet2d(seed=0, **config):
    return randomise(diffusers.UNet2DConditionModel(**{**SD1, **config}), seed)


def adapter(seed=1, **config):
    config = {"block_out_channels": (32, 64), "motion_max_seq_length": 32, **config}
    return randomise(diffusers.MotionAdapter(**config), seed)


def run_unet2d(unet, frames=3, seed=5, size=8):
    """One call of a 2-D UNet on ``frames`` pictures: its inputs for ours, and its output."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(frames, unet.config.in_channels, size, size, generator=generator)
    text = torch.randn(frames, 5, unet.config.cross_attention_dim, generator=generator)
    added = None
    if unet.config.addition_embed_type:
        added = {
            "text_embeds": torch.randn(frames, 16, generator=generator),
            "time_ids": torch.randint(0, 500, (frames, 6), generator=generator).float(),
        }
    with torch.no_grad():
        out = unet(sample, 321, text, added_cond_kwargs=added).sample
    return (sample, 321, text, frames), {"added_cond_kwargs": added}, out


def ldm_name(key, layers):
    """The original name of a diffusers UNet2D key, by the arithmetic of the LDM code (uniform layers per block)."""
    fixed = {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "time_embedding.cond_proj": "time_embed.cond_proj",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    module, leaf = key.rsplit(".", 1)
    if module in fixed:
        return f"{fixed[module]}.{leaf}"
    parts = key.split(".")
    if parts[0] == "mid_block":
        place = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}[".".join(parts[1:3])]
        return f"middle_block.{place}." + resnet_leaf(parts[1], parts[3:])
    block, what, layer = int(parts[1]), parts[2], int(parts[3])
    if parts[0] == "down_blocks":
        entry = 1 + block * (layers + 1) + layer
        if what == "downsamplers":
            return f"input_blocks.{entry + layers}.0.op.{leaf}"
        return f"input_blocks.{entry}.{0 if what == 'resnets' else 1}." + resnet_leaf(what, parts[4:])
    entry = block * (layers + 1) + layer
    if what == "upsamplers":
        return f"output_blocks.{entry + layers}.UP.conv.{leaf}"
    return f"output_blocks.{entry}.{0 if what == 'resnets' else 1}." + resnet_leaf(what, parts[4:])


def resnet_leaf(what, rest):
    names = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    return ".".join([names[rest[0]], *rest[1:]] if what == "resnets" else rest)


def to_ldm(state, layers, prefix=""):
    """A diffusers UNet2D state dict under the original names; an upsampler stands behind what its entry holds."""
    named = {ldm_name(key, layers): value for key, value in state.items()}
    out = {}
    for key, value in named.items():
        if ".UP." in key:
            entry = key.split(".UP.")[0]
            key = key.replace("UP", "2" if f"{entry}.1.proj_in.weight" in named else "1")
        out[prefix + key] = value
    return out


def to_original(state, prefix=""):
    """A diffusers MotionAdapter's state dict under AnimateDiff's own names."""
    out = {}
    for key, value in state.items():
        head, number, rest = re.fullmatch(r"(.*\.motion_modules)\.(\d+)\.(.*)", key).groups()
        head = f"{prefix}{head}.{number}.temporal_transformer"
        block = re.match(r"transformer_blocks\.\d+", rest)
        if block is None:
            out[f"{head}.{rest}"] = value
            continue
        block, name = block.group(), rest[block.end() + 1 :]
        if name == "pos_embed.pe":
            for attention in (0, 1):
                out[f"{head}.{block}.attention_blocks.{attention}.pos_encoder.pe"] = value.clone()
            continue
        part, _, leaf = name.partition(".")
        part = {
            "attn1": "attention_blocks.0",
            "attn2": "attention_blocks.1",
            "norm1": "norms.0",
            "norm2": "norms.1",
            "norm3": "ff_norm",
            "ff": "ff",
        }[part]
        out[f"{head}.{block}.{part}.{leaf}"] = value
    return out


def write(path, state, **metadata):
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=metadata or None)
    return path


def write_sparse(path, state):
    """A file of float16 zeros with the names and shapes of a state dict, which takes no space on the disk."""
    header, end = {}, 0
    for name, value in state.items():
        begin, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def same_state(a, b):
    """Equal names and equal bits."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()
