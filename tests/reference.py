"""Shared parts of the parity suite: small nets with random weights, inputs, and the comparison with diffusers.

diffusers' `UNetMotionModel` is the reference. It wants one row of text per frame, so `run_theirs` repeats
one row per clip before it calls; everything else is passed through unchanged.
"""

import functools
import os

import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter as TheirAdapter
from diffusers.models.unets.unet_motion_model import UNetMotionModel as TheirModel
from torch import nn

from unet_motion import MotionAdapter, UNetMotionModel

LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4

ERRORS = []

SD15 = dict(
    block_out_channels=(8, 16, 16, 16),
    layers_per_block=2,
    norm_num_groups=4,
    cross_attention_dim=12,
    num_attention_heads=2,
    motion_num_attention_heads=2,
)

SDXL = dict(
    down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
    up_block_types=("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
    block_out_channels=(8, 16, 32),
    layers_per_block=2,
    transformer_layers_per_block=(1, 2, 3),
    num_attention_heads=(1, 2, 4),
    motion_num_attention_heads=2,
    norm_num_groups=4,
    cross_attention_dim=20,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 10,
)

TINY = dict(
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
    up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    num_attention_heads=2,
    motion_num_attention_heads=2,
)

CONFIGS = {"sd15": SD15, "sdxl": SDXL, "tiny": TINY}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value that keeps activations near unit size.

    Zero-initialised parameters become random too, so that no branch is silent; norm scales stay around 1.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise /= parameter[0].numel() ** 0.5
            else:
                noise = noise * 0.3 + float(name.endswith("weight"))
            parameter.copy_(noise)
    return module.eval()


def their_model(config: dict, seed: int = 0) -> TheirModel:
    return randomise(TheirModel(**config), seed)


def pair(config: dict, seed: int = 0, **extra) -> tuple[UNetMotionModel, TheirModel]:
    """Our model and diffusers' with one set of random weights. `extra` goes to our constructor only."""
    theirs = their_model(config, seed)
    ours = UNetMotionModel(**config, **extra).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@functools.lru_cache(maxsize=4)
def _shared_pair(name: str) -> tuple[UNetMotionModel, TheirModel]:
    return pair(CONFIGS[name])


def shared_pair(config: dict) -> tuple[UNetMotionModel, TheirModel]:
    """`pair` of one of `CONFIGS`, built once: only for tests that change neither model."""
    return _shared_pair(next(name for name, known in CONFIGS.items() if known is config))


def adapter_pair(seed: int = 3, **config) -> tuple[MotionAdapter, TheirAdapter]:
    theirs = randomise(TheirAdapter(**config), seed)
    ours = MotionAdapter(**config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def make_inputs(config: dict, batch=1, frames=3, height=8, width=8, tokens=5, text_rows="clip", seed=1) -> dict:
    """Random keyword arguments of `forward` for this config."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    text_width = config.get("cross_attention_dim", 1280)
    if not isinstance(text_width, int):
        assert len(set(text_width)) == 1, "one text cannot have several widths"
        text_width = text_width[0]
    rows = batch * frames if text_rows == "frame" else batch
    inputs = dict(
        sample=randn(batch, config.get("in_channels", 4), frames, height, width),
        timestep=torch.randint(0, 1000, (batch,), generator=generator),
        encoder_hidden_states=randn(rows, tokens, text_width),
    )
    if config.get("addition_embed_type") == "text_time":
        embed = config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - 6 * embed
        inputs["added_cond_kwargs"] = {
            "text_embeds": randn(batch, pooled),
            "time_ids": torch.randint(0, 64, (batch, 6), generator=generator).float(),
        }
    if config.get("time_cond_proj_dim"):
        inputs["timestep_cond"] = randn(batch, config["time_cond_proj_dim"])
    return inputs


def run_theirs(model: TheirModel, inputs: dict, **extra) -> torch.Tensor:
    """diffusers' result as (B, C, F, H, W); text given per clip is repeated per frame as diffusers needs it."""
    inputs = {**inputs, **extra}
    batch, _, frames = inputs["sample"].shape[:3]
    text = inputs["encoder_hidden_states"]
    if text.shape[0] == batch:
        inputs["encoder_hidden_states"] = text.repeat_interleave(frames, dim=0)
    return model(**inputs).sample


def run_ours(model: UNetMotionModel, inputs: dict, **extra) -> torch.Tensor:
    return model(**{**inputs, **extra}).sample


def as_double(value):
    """Floating-point tensors in float64, also inside dicts and lists."""
    if isinstance(value, dict):
        return {key: as_double(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_double(item) for item in value]
    return value.double() if value.is_floating_point() else value


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """||result - expected|| / ||expected||, in float64."""
    assert result.shape == expected.shape, f"shape {tuple(result.shape)}, expected {tuple(expected.shape)}"
    result, expected = result.detach().double(), expected.detach().double()
    assert torch.isfinite(expected).all(), "the reference itself is not finite"
    return ((result - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def assert_close(result: torch.Tensor, expected: torch.Tensor, limit: float = LIMIT, what: str = "") -> None:
    error = relative_error(result, expected)
    ERRORS.append((error, limit, f"{os.environ.get('PYTEST_CURRENT_TEST', '')} {what}".strip()))
    assert error <= limit, f"relative error {error:.3e} > {limit:.0e} {what}"


def assert_differs(result: torch.Tensor, other: torch.Tensor, at_least: float = 1e-3) -> None:
    """The feature under test must act: without this a comparison could pass by ignoring it on both sides."""
    error = relative_error(result, other)
    assert error >= at_least, f"the results differ by only {error:.3e}; the feature does nothing here"


def assert_same_state(result: dict, expected: dict) -> None:
    """Two state dicts hold the same names and exactly the same values."""
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        assert result[key].dtype == value.dtype and torch.equal(result[key], value), key


def rows_of_frames(video: torch.Tensor) -> torch.Tensor:
    """(B, C, F, H, W) -> (B*F, C, H, W), frames of one clip together."""
    return video.transpose(1, 2).flatten(0, 1)


def clip_of_rows(rows: torch.Tensor, frames: int) -> torch.Tensor:
    """(B*F, C, H, W) -> (B, C, F, H, W)."""
    return rows.unflatten(0, (-1, frames)).transpose(1, 2)


def skip_shapes(theirs: TheirModel, inputs: dict) -> tuple[list[torch.Size], torch.Size]:
    """Shapes of diffusers' skip tensors, in order, and of the mid block's output; read off a real run."""
    shapes, middle, handles = [], [], []

    def record(module, args, output):
        shapes.append(output.shape)

    handles.append(theirs.conv_in.register_forward_hook(record))
    for block in theirs.down_blocks:
        for module in block.motion_modules:
            handles.append(module.register_forward_hook(record))
        for module in block.downsamplers or ():
            handles.append(module.register_forward_hook(record))
    handles.append(theirs.mid_block.register_forward_hook(lambda m, a, out: middle.append(out.shape)))
    with torch.no_grad():
        run_theirs(theirs, inputs)
    for handle in handles:
        handle.remove()
    return shapes, middle[0]


def with_time_embedding(theirs: TheirModel, embedding: torch.Tensor):
    """Make every resnet of diffusers' model use this (B*F, D) embedding; returns a function that undoes it.

    diffusers has one timestep per clip only; this is the reference for one per frame.
    """

    def replace(module, args, kwargs):
        kwargs = dict(kwargs)
        if len(args) > 1:
            args = (args[0], embedding, *args[2:])
        else:
            kwargs["temb"] = embedding
        return args, kwargs

    handles = [
        module.register_forward_pre_hook(replace, with_kwargs=True)
        for module in theirs.modules()
        if type(module).__name__ == "ResnetBlock2D"
    ]
    return lambda: [handle.remove() for handle in handles]
