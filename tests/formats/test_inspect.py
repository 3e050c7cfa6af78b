"""``inspect_file`` and ``unet-motion inspect``: what a file is, read from its header."""

import json
from types import SimpleNamespace

import diffusers
import pytest
import torch

from tests.formats.files import SDXL, adapter, to_ldm, to_original, unet2d, write, write_sparse
from unet_motion import UNetMotionConfig, UNetMotionModel, inspect_file
from unet_motion.cli import main
from unet_motion.cli.inspect import describe
from unet_motion.formats import FileFormatError
from unet_motion.formats.names.ldm import ldm_key_map

FOUR = {"block_out_channels": (32, 32, 64, 64)}


def test_a_stable_diffusion_checkpoint(tmp_path):
    state = to_ldm(unet2d(in_channels=9).half().state_dict(), 2, "model.diffusion_model.")
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(3)
    info = inspect_file(write(tmp_path / "a.safetensors", state))
    assert (info.kind, info.version, info.dtype, info.loadable) == ("ldm_unet", "custom", "float16", True)
    assert info.config["in_channels"] == 9
    assert info.config["cross_attention_dim"] == 24
    assert info.prefix == "model.diffusion_model."
    assert info.tensors == len(state)
    assert info.parameters == sum(v.numel() for v in state.values())
    assert (info.missing, info.unexpected, info.mismatched, info.frames) == ([], [], [], None)


def test_missing_and_extra_names(tmp_path):
    state = to_ldm(unet2d(**SDXL).state_dict(), 2)
    del state["label_emb.0.2.bias"]
    state["out.7.weight"] = torch.zeros(1)
    info = inspect_file(write(tmp_path / "a.safetensors", state))
    assert info.missing == ["add_embedding.linear_2.bias"]
    assert info.unexpected == ["out.7.weight"]
    assert not info.loadable
    assert info.config["addition_embed_type"] == "text_time"


def test_names_too_many_alone_or_too_few_alone_keep_a_file_from_loading(tmp_path):
    whole = adapter().state_dict()
    last = next(reversed(whole))
    for state, missing, extra in (
        (whole, [], []),
        ({**whole, "more.weight": torch.zeros(3)}, [], ["more.weight"]),
        ({name: tensor for name, tensor in whole.items() if name != last}, [last], []),
    ):
        info = inspect_file(write(tmp_path / "a.safetensors", state))
        assert (info.missing, info.unexpected, info.loadable) == (missing, extra, not missing and not extra)


@pytest.mark.parametrize(
    ("config", "version", "scopes"),
    [
        ({**FOUR, "motion_max_seq_length": 24, "use_motion_mid_block": False}, "v1", ("clip", "frame")),
        (FOUR, "v2", ("frame", "frame")),
        ({**FOUR, "use_motion_mid_block": False}, "v3", ("frame", "frame")),
        ({"block_out_channels": (32, 64, 64), "use_motion_mid_block": False}, "sdxl", ("frame", "clip")),
    ],
)
def test_motion_modules(tmp_path, config, version, scopes):
    reference = adapter(**config)
    info = inspect_file(write(tmp_path / "a.safetensors", to_original(reference.state_dict(), "module.")))
    assert (info.kind, info.version, info.norm_scopes, info.loadable) == ("motion_module", version, scopes, True)
    assert info.frames == config.get("motion_max_seq_length", 32)
    reference.save_pretrained(tmp_path / "folder")
    info = inspect_file(tmp_path / "folder")
    assert (info.kind, info.frames, info.loadable) == ("motion_adapter", config.get("motion_max_seq_length", 32), True)


def test_full_size_names_have_a_version(tmp_path):
    def empty(shapes, path):
        return inspect_file(write_sparse(path, {k: torch.empty(s, device="meta") for k, s in shapes.items()}))

    for family, arguments in {
        "sd1": {"cross_attention_dim": 768},
        "sd2": {"cross_attention_dim": 1024, "use_linear_projection": True, "num_attention_heads": (5, 10, 20, 20)},
    }.items():
        with torch.device("meta"):
            shapes = {k: v.shape for k, v in diffusers.UNetMotionModel(**{"num_attention_heads": 8, **arguments})
                      .state_dict().items()}  # fmt: skip
        names = ldm_key_map(UNetMotionConfig(**arguments))
        info = empty({ldm: shapes[ours] for ours, ldm in names.items()}, tmp_path / "a.ckpt")
        assert (info.version, info.loadable) == (family, True)
        heads = info.config["num_attention_heads"]
        assert heads == (8 if family == "sd1" else [5, 10, 20, 20])


def test_whole_motion_unets(tmp_path):
    model = UNetMotionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=24,
        motion_max_seq_length=20,
        motion_norm_scope="frame",
    )
    model.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        info = inspect_file(path)
        assert (info.kind, info.frames, info.loadable) == ("unet_motion", 20, True)
        assert info.norm_scopes == ("frame", "frame")


def test_other_files_are_named_and_damaged_ones_are_errors(tmp_path):
    info = inspect_file(write(tmp_path / "a.safetensors", {"decoder.conv_in.weight": torch.zeros(3, 2)}))
    assert (info.kind, info.description, info.loadable, info.parameters) == ("vae", "a VAE", False, 6)
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(FileFormatError, match="is empty"):
        inspect_file(tmp_path / "b.safetensors")
    state = to_original(adapter().state_dict())
    torn = {k: v for k, v in state.items() if "down_blocks.1.motion_modules.1" not in k}
    info = inspect_file(write(tmp_path / "c.safetensors", {k: v for k, v in torn.items() if "up_blocks" not in k}))
    assert (info.kind, info.loadable) == ("motion_module", False)
    assert "has 1 motion modules in a block, expected 2" in info.problem


def test_only_the_header_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.safetensors", to_ldm(unet2d().state_dict(), 2))
    from unet_motion.files import reading

    monkeypatch.setattr(reading, "safe_open", None)
    assert inspect_file(path).loadable


def test_command_line(tmp_path, capsys):
    path = write(tmp_path / "a.safetensors", to_original(adapter(**FOUR).half().state_dict()))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "an AnimateDiff motion module, v2" in text
    assert "up to 32 frames; norm scopes: resnets frame, motion frame" in text
    assert "float16" in text
    assert main(["inspect", str(path), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read == json.loads(json.dumps(inspect_file(path).to_dict()))
    assert (read["kind"], read["version"], read["frames"]) == ("motion_module", "v2", 32)
    vae = write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": torch.zeros(1)})
    assert main(["inspect", str(path), str(vae)]) == 1
    assert "a VAE" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path / 'nothing'} does not exist." in capsys.readouterr().err


def told(**changes):
    found = dict(
        path="m.ckpt", description="motion modules", version="v2", tensors=3, parameters=1_260_000, dtype="float16",
        frames=24, norm_scopes=("clip", "frame"), base="Stable Diffusion 1.5",
        recommended={"frames": 16, "sampler": "euler", "steps": 25, "guidance": 7.5},
        beta_schedule={"comfyui": "sqrt_linear (AnimateDiff)", "diffusers": "linear", "start": 0.00085, "end": 0.012},
        motion_blocks=("mid_block", "up_blocks.1"), prefix="unet.",
        config={"block_out_channels": (320, 640), "cross_attention_dim": 768}, missing=[f"a.{i}" for i in range(9)],
        unexpected=[f"b.{i}" for i in range(8)], mismatched=[], problem="", loadable=True,
    )  # fmt: skip
    return describe(SimpleNamespace(**{**found, **changes})).splitlines()


def test_every_line_of_the_description():
    assert told() == [
        "m.ckpt: motion modules, v2",
        "  3 tensors, 1.3 M parameters, float16",
        "  up to 24 frames; norm scopes: resnets clip, motion frame",
        "  made for Stable Diffusion 1.5; noise schedule sqrt_linear (AnimateDiff) in ComfyUI (linear in diffusers), "
        "0.00085 to 0.012; 16 frames, euler, 25 steps, guidance 7.5",
        "  motion in mid_block and up_blocks.1 only",
        "  block widths 320, 640; text width 768",
        "  names start with unet.",
        "  9 missing: a.0, a.1, a.2, a.3, a.4, a.5, a.6, a.7, ...",
        "  8 unexpected: b.0, b.1, b.2, b.3, b.4, b.5, b.6, b.7",
        "  can be loaded",
    ]
    bare = dict(version=None, dtype=None, frames=None, recommended=None, motion_blocks=None, config={}, prefix="",
                missing=[], unexpected=[])  # fmt: skip
    lines = ["m.ckpt: motion modules", "  3 tensors, 1.3 M parameters, no floats"]
    assert told(**bare, loadable=False) == [*lines, "  cannot be loaded"]
    assert told(**bare, problem="is a VAE", loadable=False) == [*lines, "  is a VAE"]
    assert told(**{**bare, "config": {"block_out_channels": [32]}})[2] == "  block widths 32"
