"""Every kind of motion module at full size, in a whole UNet: exactly the published names and shapes, random values, and
the output of what is loaded against the published definition in float64.

The image UNet has the widths and the resnets of Stable Diffusion 1.5 with transformers on the outer level alone, or
SDXL's at its full width with one transformer layer where SDXL has up to ten: the rest has nothing to do with motion.
`test_full_size.py` has the whole of Stable Diffusion 1.5.
"""

import diffusers
import pytest
import torch

from tests.formats.files import relative_error, to_ldm
from tests.formats.full_size import (
    ROWS,
    TheirUNet,
    Widening,
    in_double,
    kind_shapes,
    names_after,
    read_half,
    widened,
    write_half,
    write_kind,
)
from tests.formats.published import add_features, encoder_features, with_norms
from tests.formats.test_kinds import KINDS
from unet_motion import load_unet

FRAMES = 2
SD15 = {
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) + ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3 + ("CrossAttnUpBlock2D",),
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# (resnets, motion modules): over which frames their group norms go, by the authors' configurations and code.
SCOPES = {
    "v1": ("clip", "frame"),
    "v2": ("frame", "frame"),
    "v3": ("frame", "frame"),
    "lcm": ("frame", "frame"),
    "lcm_i2v": ("frame", "frame"),
    "pia": ("clip", "frame"),
    "sdxl": ("frame", "clip"),
    "hotshot": ("clip", "frame"),
}
PARAMETERS = {"v1": 417, "v2": 453, "v3": 417, "lcm": 453, "lcm_i2v": 530, "pia": 417, "sdxl": 237, "hotshot": 237}
"""Millions, without position tables."""


def base_of(kind):
    return SDXL if kind in ("sdxl", "hotshot") else SD15


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Image UNets under Stable Diffusion's names: (file, names) by the number of levels."""
    folder, made = tmp_path_factory.mktemp("bases"), {}

    def base(config):
        levels = len(config.get("block_out_channels", (1,) * 4))
        if levels not in made:
            for path, _ in made.values():
                path.unlink()
            with torch.device("meta"):
                unet = diffusers.UNet2DConditionModel(**config)
            shapes = {k: v.shape for k, v in unet.state_dict().items()}
            names = names_after(lambda state: to_ldm(state, 2, "model.diffusion_model."), shapes)
            made.clear()
            made[levels] = write_half(folder / f"{levels}.safetensors", shapes, names), names
        return made[levels]

    yield base
    for path, _ in made.values():
        path.unlink()


def reference(kind, base, motion, picture):
    """diffusers' layers in float64 with the original's norms, tables and inputs."""
    config = {key.replace("attention_head_dim", "num_attention_heads"): value for key, value in base_of(kind).items()}
    for name in ("down_block_types", "up_block_types"):
        if name in config:
            config[name] = tuple(block.replace("2D", "Motion") for block in config[name])
    structure = {
        "use_motion_mid_block": KINDS[kind].get("use_motion_mid_block", True),
        "motion_max_seq_length": ROWS.get(kind, 32),
    }
    with torch.device("meta"):
        theirs = TheirUNet(**config, **structure, in_channels=9 if kind == "pia" else 4)
    state = {**base, **{k: v for k, v in motion.items() if ".motion_modules." in k}}
    if kind == "pia":
        latent, rest = base["conv_in.weight"], motion["conv_in.weight"][:, 4:]
        state["conv_in.weight"] = torch.cat([latent, rest], dim=1)
    if ROWS.get(kind) == 64:
        widths = {k: v.shape[2] for k, v in theirs.state_dict().items() if k.endswith(".pe")}
        state |= {k: sines(64, width).half() for k, width in widths.items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    theirs = with_norms(in_double(theirs), *SCOPES[kind], FRAMES)
    if kind == "lcm_i2v":
        add_features(theirs, encoder_features(motion, picture[:, :, None].expand(-1, -1, FRAMES, -1, -1), 0.8))
    return theirs


def sines(rows, width):
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * rate
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None]


@pytest.mark.filterwarnings("ignore:.*holds no position tables")
@pytest.mark.parametrize("kind", sorted(SCOPES, key=lambda kind: (base_of(kind) is SDXL, kind)))
def test_a_file_of_full_size_computes_its_published_definition(tmp_path, bases, kind):
    base, names = bases(base_of(kind))
    path = tmp_path / f"{kind}.safetensors"
    sizes = [shape.numel() for name, shape in kind_shapes(kind).items() if not name.endswith(".pe")]
    assert abs(sum(sizes) / 1e6 - PARAMETERS[kind]) < 1
    motion = read_half(path, write_kind(path, kind))
    generator = torch.Generator().manual_seed(3)
    # Frames of unequal contrast tell norms over a frame from norms over all.
    sample = torch.randn(1, 9 if kind == "pia" else 4, FRAMES, 8, 8, generator=generator)
    sample = sample * torch.tensor([0.5, 2.0]).view(1, 1, -1, 1, 1)
    picture = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 5, base_of(kind)["cross_attention_dim"], generator=generator)
    vector = {"text_embeds": torch.randn(1, 1280, generator=generator), "time_ids": torch.tensor([[64.0] * 6])}
    added = vector if base_of(kind) is SDXL else {"image_latents": picture} if kind == "lcm_i2v" else {}

    with torch.no_grad():
        theirs = reference(kind, read_half(base, names), motion, picture)
        double = {k: v.double() for k, v in vector.items()}
        rows = text.double().repeat_interleave(FRAMES, 0)
        expected = theirs(sample.double(), 77, rows, added_cond_kwargs=double).sample
        del theirs
        ours = load_unet(base, path, operations=Widening, weights=widened)
        made = ours(sample, 77, text, added_cond_kwargs=added).sample
    path.unlink()
    assert (ours.config.resnet_norm_scope, ours.config.motion_norm_scope) == SCOPES[kind]
    assert made.dtype == torch.float32 and relative_error(made.double(), expected) < 1e-5
