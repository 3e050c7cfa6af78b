"""Every kind of motion module: recognised at full size by its names and shapes, and run as it was trained."""

import re
import runpy
from pathlib import Path

import diffusers
import pytest
import torch

from tests.formats.files import SDXL, adapter, relative_error, to_ldm, to_original, unet2d, write, write_sparse
from tests.formats.published import encoder_shapes, with_norms
from unet_motion import MotionAdapterConfig, inspect_file, load_motion_module, load_unet
from unet_motion.files.errors import WrongKindError
from unet_motion.formats.kinds import MOTION_MODULES, recognise, support_table
from unet_motion.sampling import NoiseSchedule

ROOT = Path(__file__).parents[2]
THREE = {
    **SDXL,
    "block_out_channels": (64, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 1, 2),
    "transformer_layers_per_block": (1, 1, 2),
}
KINDS = {
    "v1": {"motion_max_seq_length": 24, "use_motion_mid_block": False},
    "v2": {},
    "v3": {"use_motion_mid_block": False},
    "sdxl": {"block_out_channels": (320, 640, 1280), "use_motion_mid_block": False},
    "hotshot": {
        "block_out_channels": (320, 640, 1280), "use_motion_mid_block": False, "motion_max_seq_length": 24,
    },
    "lightning": {},
    "lcm": {},
    "lcm_i2v": {},
    "pia": {"use_motion_mid_block": False, "conv_in_channels": 9},
}  # fmt: skip
SCHEDULES = {"sdxl": (65.93, "linear"), "hotshot": (14.61, "linear"), "lcm_i2v": (41.67, "sqrt_linear")}


def to_hotshot(state, prefix=""):
    """Names of HotshotXL's temporal layers, from its published module classes."""
    out = {}
    for key, value in to_original(state).items():
        key = re.sub(r"motion_modules\.(\d+)\.temporal_transformer", r"temporal_attentions.\1", key)
        out[prefix + key.replace("pos_encoder.pe", "pos_encoder.positional_encoding")] = value
    return out


def in_its_names(kind, state, prefix=""):
    beside = ("conv_in.", "img_encoder.")
    spatial = {f"{prefix}{k}": v for k, v in state.items() if k.startswith(beside)}
    motion = {k: v for k, v in state.items() if not k.startswith(beside)}
    if kind == "hotshot":
        return to_hotshot(motion, prefix)
    named = to_original(motion, prefix)
    if kind in ("lcm", "lcm_i2v"):
        named = {k: v for k, v in named.items() if "pos_encoder" not in k}
    return {**named, **spatial}


@pytest.mark.filterwarnings("ignore:.*holds no position tables")
@pytest.mark.parametrize(
    ("kind", "prefix"), [(kind, "module." if i % 2 else "") for i, kind in enumerate(MOTION_MODULES)]
)
def test_full_size_names_and_shapes_of_each_kind_are_recognised(tmp_path, kind, prefix):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in diffusers.MotionAdapter(**KINDS[kind]).state_dict().items()}
    if kind == "pia":
        shapes = {"conv_in.weight": torch.Size((320, 9, 3, 3)), "conv_in.bias": torch.Size((320,)), **shapes}
    if kind == "lcm_i2v":
        shapes |= encoder_shapes((320, 640, 1280, 1280))
    names = in_its_names(kind, {k: torch.empty(s, device="meta") for k, s in shapes.items()}, prefix)
    info = inspect_file(write_sparse(tmp_path / file_name(kind), names))
    published = MOTION_MODULES[kind]
    assert (info.kind, info.version, info.loadable) == ("motion_module", kind, True)
    assert info.frames == {"v1": 24, "hotshot": 24, "lcm": 64, "lcm_i2v": 64}.get(kind, 32)
    assert (info.norm_scopes, info.base) == (published.norm_scopes, published.base)
    sigma, comfy = SCHEDULES.get(kind, (25.15, "sqrt_linear"))
    assert info.beta_schedule["comfyui"] == comfy
    named = NoiseSchedule.named(
        info.beta_schedule["diffusers"], start=info.beta_schedule["start"], end=info.beta_schedule["end"]
    )
    assert abs(float(named.noise_ratios[-1]) - sigma) < 0.01
    assert info.recommended["frames"] == (8 if kind == "hotshot" else 16)


def file_name(kind):
    return "AnimateDiff_Lightning_4step_comfyui.safetensors" if kind == "lightning" else "a.safetensors"


def test_animatediff_lightning_is_told_by_its_name_and_loaded_as_v2(tmp_path):
    with torch.device("meta"):
        state = diffusers.MotionAdapter().state_dict()
    for names, known in ((to_original(state), "motion_module"), (state, "motion_adapter")):
        infos = [
            inspect_file(write_sparse(tmp_path / name, names))
            for name in ("animatediff_lightning_8step.safetensors", "mm_sd_v15_v2.safetensors")
        ]
        assert [(info.kind, info.version) for info in infos] == [(known, "lightning"), (known, "v2")]
        lightning, v2 = infos
        assert lightning.norm_scopes == v2.norm_scopes and lightning.beta_schedule == v2.beta_schedule
        assert lightning.recommended == {"frames": 16, "sampler": "euler", "steps": 8, "guidance": 1.0}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("AnimateDiff-Lightning.safetensors", 4), ("lightning_2-step.ckpt", 2), ("8step lightning.safetensors", 8),
        ("my_lightning_footstep.ckpt", None), ("lightning.safetensors", None), ("mm_4step.safetensors", None),
    ],
)  # fmt: skip
def test_names_of_lightning_say_how_many_steps(name, steps):
    found = recognise(MotionAdapterConfig(), file_name=name)
    assert found.name == ("v2" if steps is None else "lightning")
    assert found.of_file(name).steps == (25 if steps is None else steps)


@pytest.mark.parametrize("leaf", ["pe", "pos_encoding"])
def test_an_animatelcm_file_may_hold_its_tables_of_64_rows(tmp_path, leaf):
    state = to_original(adapter(block_out_channels=(32, 32, 64, 64), motion_max_seq_length=64).state_dict())
    named = {key.replace("pos_encoder.pe", f"pos_encoder.{leaf}"): value for key, value in state.items()}
    module = load_motion_module(write(tmp_path / "a.safetensors", named))
    assert (module.version, module.config.motion_max_seq_length) == ("lcm", 64)
    modules = "down_blocks.0.motion_modules.0"
    table = state[f"{modules}.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"]
    assert torch.equal(module.state_dict[f"{modules}.transformer_blocks.0.pos_embed.pe"], table)


def restated(theirs, resnet, motion, frames):
    """diffusers' model in float64 with the norms of the original."""
    return with_norms(theirs.double(), resnet, motion, frames)


def sdxl_files(tmp_path, kind, whole=False):
    unet = unet2d(**THREE)
    rows = 24 if kind == "hotshot" else 32
    module = adapter(block_out_channels=THREE["block_out_channels"], use_motion_mid_block=False,
                     motion_max_seq_length=rows)  # fmt: skip
    base = write(tmp_path / "xl.safetensors", to_ldm(unet.state_dict(), 2, "model.diffusion_model."))
    motion = write(tmp_path / "motion.safetensors", in_its_names(kind, module.state_dict()))
    theirs = diffusers.UNetMotionModel.from_unet2d(unet, module)
    theirs.add_embedding.load_state_dict(unet.add_embedding.state_dict())  # diffusers forgets it
    if whole:
        return write(tmp_path / "whole.safetensors", {**unet.state_dict(), **in_its_names(kind, module.state_dict())})
    return base, motion, theirs


def run_both(ours, theirs, frames):
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(1, 4, frames, 8, 8, generator=generator)
    sample = sample * torch.linspace(0.5, 2, frames).view(1, 1, -1, 1, 1)  # frames of unequal contrast
    text = torch.randn(1, 5, THREE["cross_attention_dim"], generator=generator)
    added = {"text_embeds": torch.randn(1, 16, generator=generator), "time_ids": torch.tensor([[64.0] * 6])}
    with torch.no_grad():
        double = {k: v.double() for k, v in added.items()}
        expected = theirs(sample.double(), 77, text.double().repeat_interleave(frames, 0), added_cond_kwargs=double)
        return relative_error(ours(sample, 77, text, added_cond_kwargs=added).sample.double(), expected.sample)


@pytest.mark.parametrize("kind", ["sdxl", "hotshot"])
def test_sdxl_kinds_compute_what_their_definition_says_in_float64(tmp_path, kind):
    base, motion, theirs = sdxl_files(tmp_path, kind)
    model = load_unet(base, motion)
    assert load_motion_module(motion).kind == kind
    scopes = ("clip", "frame") if kind == "hotshot" else ("frame", "clip")
    assert (model.config.resnet_norm_scope, model.config.motion_norm_scope) == scopes
    theirs = restated(theirs, *scopes, frames=4)
    assert run_both(model, theirs, 4) < 1e-5
    other = load_unet(base, motion, norm_scope="v2")
    assert run_both(other, theirs, 4) > 1e-3


def test_a_whole_hotshot_unet_is_the_same_as_its_parts(tmp_path):
    base, motion, theirs = sdxl_files(tmp_path, "hotshot")
    model = load_unet(sdxl_files(tmp_path, "hotshot", whole=True))
    assert run_both(model, restated(theirs, "clip", "frame", 4), 4) < 1e-5


def test_sd15_refuses_sdxl_modules_by_name(tmp_path):
    _, motion, _ = sdxl_files(tmp_path, "hotshot")
    base = write(tmp_path / "sd.safetensors", to_ldm(unet2d().state_dict(), 2))
    with pytest.raises(ValueError, match=r"is a HotshotXL motion module \(block widths 64, 64, 128\), but"):
        load_unet(base, motion)


def test_kinds_that_cannot_run_yet_are_refused_by_name(tmp_path):
    state = {**to_original(adapter().state_dict()), "fps_embedding.linear.weight": torch.zeros(2)}
    with pytest.raises(WrongKindError, match="looks like a FancyVideo"):
        load_motion_module(write(tmp_path / "a.safetensors", state))


def test_the_page_on_formats_shows_the_table_of_the_code():
    renewed = runpy.run_path(str(ROOT / "tools" / "kinds_table.py"))["renewed"]
    text = (ROOT / "docs" / "formats.md").read_text()
    assert renewed(text, support_table()) == text, "run tools/kinds_table.py"
    assert all(kind.title.split(" ", 1)[1] in text for kind in MOTION_MODULES.values())
    with pytest.raises(ValueError, match="no place for the table"):
        renewed("nothing", support_table())
