"""AnimateDiff's motion modules and diffusers' adapters, against diffusers' converter and models."""

import json
import math

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers

from tests.formats.files import (
    SD2,
    SDXL,
    adapter,
    randomise,
    relative_error,
    run_unet2d,
    same_state,
    to_ldm,
    to_original,
    unet2d,
    write,
    write_sparse,
)
from unet_motion import MotionAdapter, UNetMotionModel, load_motion_module, load_unet
from unet_motion.formats import FileFormatError, KeyMismatchError
from unet_motion.formats.load_unet import resolve_scope
from unet_motion.formats.names.animatediff import animatediff_to_diffusers, diffusers_to_animatediff

FOUR = (32, 32, 64, 64)
VERSIONS = {
    "v1": {"block_out_channels": FOUR, "motion_max_seq_length": 24, "use_motion_mid_block": False},
    "v2": {"block_out_channels": FOUR},
    "v3": {"block_out_channels": FOUR, "use_motion_mid_block": False},
    "sdxl": {"block_out_channels": (32, 64, 64), "use_motion_mid_block": False},
}
SCOPES = {
    "v1": ("clip", "frame"),
    "v2": ("frame", "frame"),
    "v3": ("frame", "frame"),
    "sdxl": ("frame", "clip"),
}


def table(length, channels):
    """The sinusoidal table, restated in Python's own floats."""
    return torch.tensor(
        [
            [(math.sin if c % 2 == 0 else math.cos)(p / 10000.0 ** ((c - c % 2) / channels)) for c in range(channels)]
            for p in range(length)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "module.unet.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("version", VERSIONS)
def test_original_modules_become_diffusers(tmp_path, version, prefix):
    reference = adapter(**VERSIONS[version])
    module = load_motion_module(write(tmp_path / "mm.ckpt", to_original(reference.state_dict(), prefix)))
    assert (module.kind, module.version) == (version, version)
    assert module.norm_scopes == SCOPES[version]
    weights = {k: v for k, v in module.state_dict.items() if not k.endswith(".pe")}
    tables = reference.state_dict()
    assert same_state(weights, {k: v for k, v in tables.items() if not k.endswith(".pe")})
    for key, value in module.state_dict.items():
        if key.endswith(".pe"):
            assert torch.equal(value, tables[key])
    diffusers.MotionAdapter.from_config(module.config.to_dict()).load_state_dict(module.state_dict, strict=True)


def test_names_are_those_of_diffusers_converter():
    state = to_original(adapter().state_dict())
    converted = convert_animatediff_checkpoint_to_diffusers(dict(state))
    ours = {k: v for k, v in animatediff_to_diffusers(state).items() if not k.endswith(".pe")}
    assert same_state(ours, converted)


def test_round_trip_is_exact():
    state = adapter().state_dict()
    original = diffusers_to_animatediff(state)
    assert same_state(original, to_original(state))
    assert same_state(animatediff_to_diffusers(original), dict(state))


def test_training_checkpoint_with_config_entry(tmp_path):
    state = to_original(adapter(**VERSIONS["v3"]).state_dict(), "module.")
    content = {"epoch": 1, "global_step": 9, "state_dict": {**state, "animatediff_config": {"unet": 1}}}
    torch.save(content, tmp_path / "mm.ckpt")
    module = load_motion_module(tmp_path / "mm.ckpt")
    assert module.version == "v3"
    torch.save({**state, "animatediff_config": "text"}, tmp_path / "mm.ckpt")
    assert load_motion_module(tmp_path / "mm.ckpt").version == "v3"


def test_a_table_rounded_to_half_is_whole_again_in_float32(tmp_path):
    state = to_original(adapter(**VERSIONS["v2"]).half().state_dict())
    module = load_motion_module(write(tmp_path / "mm.safetensors", state), dtype=torch.float32)
    for key, value in module.state_dict.items():
        assert value.dtype == torch.float32
        if key.endswith(".pe"):
            assert torch.allclose(value[0].double(), table(*value.shape[1:]), atol=1e-7, rtol=0)
    same = load_motion_module(tmp_path / "mm.safetensors").state_dict
    name = "down_blocks.0.motion_modules.0.transformer_blocks.0.pos_embed.pe"
    assert same[name].dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_stretched_or_learned_table_is_kept(tmp_path, dtype):
    state = adapter(**VERSIONS["v2"]).to(dtype).state_dict()
    name = "up_blocks.1.motion_modules.2.transformer_blocks.0.pos_embed.pe"
    stretched = torch.nn.functional.interpolate(state[name][:, :16].float().mT, 32, mode="linear").mT
    state[name] = stretched.to(dtype)
    kept = load_motion_module(write(tmp_path / "mm.safetensors", to_original(state)), dtype=torch.float32).state_dict
    assert torch.equal(kept[name], state[name].float())
    learned = state[name].clone()
    learned[0, 3, 5] += 0.004
    state[name] = learned
    kept = load_motion_module(write(tmp_path / "mm.safetensors", to_original(state))).state_dict
    assert torch.equal(kept[name], learned)


def test_two_tables_in_one_block_are_refused(tmp_path):
    state = to_original(adapter().state_dict())
    key = next(k for k in state if k.endswith("attention_blocks.1.pos_encoder.pe"))
    state[key] = state[key] + 1
    with pytest.raises(FileFormatError, match="differ, expected one position table"):
        load_motion_module(write(tmp_path / "mm.safetensors", state))


def test_without_tables_they_are_computed_and_said(tmp_path):
    state = {k: v for k, v in to_original(adapter().state_dict()).items() if "pos_encoder" not in k}
    with pytest.warns(UserWarning, match="holds no position tables, sinusoidal ones of 64 rows are used"):
        module = load_motion_module(write(tmp_path / "lcm.safetensors", state))
    assert module.config.motion_max_seq_length == 64
    state = {k: v for k, v in adapter().half().state_dict().items() if not k.endswith(".pe")}
    with pytest.warns(UserWarning, match="sinusoidal ones of 32 rows"):
        module = load_motion_module(write(tmp_path / "adapter.safetensors", state), dtype=torch.float32)
    name = "mid_block.motion_modules.0.transformer_blocks.0.pos_embed.pe"
    assert torch.allclose(module.state_dict[name][0].double(), table(32, 64), atol=1e-7, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_adapters_as_file_and_folder(tmp_path, version):
    reference = adapter(**VERSIONS[version])
    reference.save_pretrained(tmp_path / "folder")
    expected = reference.state_dict()
    for path in (tmp_path / "folder", write(tmp_path / "file.safetensors", expected)):
        module = load_motion_module(path)
        assert module.kind == "diffusers"
        assert module.version is None
        assert module.norm_scopes == ("frame", "clip")
        assert module.to_adapter().state_dict().keys() == expected.keys()
        assert all(torch.allclose(v, expected[k], atol=1e-5, rtol=0) for k, v in module.state_dict.items())


def test_an_adapter_folder_gives_what_a_file_cannot(tmp_path):
    reference = adapter(motion_num_attention_heads=4, motion_norm_num_groups=16, motion_max_seq_length=20)
    reference.save_pretrained(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a" / "diffusion_pytorch_model.safetensors"):
        config = load_motion_module(path).config
        assert (config.motion_num_attention_heads, config.motion_norm_num_groups) == (4, 16)
        assert config.motion_max_seq_length == 20


def test_a_config_that_contradicts_its_weights_is_refused(tmp_path):
    adapter().save_pretrained(tmp_path / "a")
    config = (tmp_path / "a" / "config.json").read_text()
    (tmp_path / "a" / "config.json").write_text(
        config.replace('"motion_max_seq_length": 32', '"motion_max_seq_length": 24')
    )
    with pytest.raises(KeyMismatchError, match=r"pos_embed\.pe has shape \[1, 32, 32\].*expected \[1, 24, 32\]"):
        load_motion_module(tmp_path / "a")


def test_legacy_adapter_fields_are_ignored_with_a_warning(tmp_path):
    adapter().save_pretrained(tmp_path / "a")
    config = (tmp_path / "a" / "config.json").read_text()
    (tmp_path / "a" / "config.json").write_text(config.replace("{", '{"motion_activation_fn": "geglu",', 1))
    with pytest.warns(UserWarning, match="motion_activation_fn"):
        load_motion_module(tmp_path / "a")


def test_depths_are_counted(tmp_path):
    reference = adapter(motion_transformer_layers_per_block=(1, 2), motion_layers_per_block=(1, 3))
    module = load_motion_module(write(tmp_path / "a.safetensors", reference.state_dict()))
    assert module.config.motion_layers_per_block == (1, 3)
    assert module.config.motion_transformer_layers_per_block == (1, 2)


def test_the_published_sizes_have_the_scopes_of_their_training(tmp_path):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in diffusers.MotionAdapter(use_motion_mid_block=False).state_dict().items()}
    state = {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    module = load_motion_module(write_sparse(tmp_path / "a.safetensors", state))
    assert (module.kind, module.version, module.norm_scopes) == ("diffusers", "v3", ("frame", "frame"))


def test_a_missing_and_an_extra_tensor_are_named(tmp_path):
    state = to_original(adapter().state_dict())
    gone = "down_blocks.1.motion_modules.0.temporal_transformer.proj_out.bias"
    short = {k: v for k, v in state.items() if k != gone}
    with pytest.raises(KeyMismatchError, match=r"1 missing: down_blocks\.1\.motion_modules\.0\.proj_out\.bias"):
        load_motion_module(write(tmp_path / "a.safetensors", short))
    with pytest.raises(KeyMismatchError, match=r"1 not expected: odd_embedding\.linear\.weight"):
        load_motion_module(write(tmp_path / "a.safetensors", {**state, "odd_embedding.linear.weight": torch.zeros(2)}))
    without_first = {k: v for k, v in state.items() if not k.startswith("down_blocks.0.motion_modules.0.")}
    with pytest.raises(KeyMismatchError, match=r"a\.safetensors: .*missing"):
        load_motion_module(write(tmp_path / "a.safetensors", without_first))


def unet_motion_reference(unet, motion):
    return diffusers.UNetMotionModel.from_unet2d(unet, motion).eval()


def run_motion(model, reference, frames=4):
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(1, 4, frames, 8, 8, generator=generator)
    text = torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        expected = reference(sample, 77, text.repeat_interleave(frames, 0)).sample
        return relative_error(model(sample, 77, text).sample, expected)


@pytest.mark.parametrize("mid", [True, False], ids=["mid", "no-mid"])
def test_checkpoint_and_original_module_compute_what_diffusers_computes(tmp_path, mid):
    unet, motion = unet2d(), adapter(use_motion_mid_block=mid, motion_max_seq_length=24)
    base = write(tmp_path / "sd.safetensors", to_ldm(unet.state_dict(), 2, "model.diffusion_model."))
    module = write(tmp_path / "mm.safetensors", to_original(motion.state_dict()))
    model = load_unet(base, module, norm_scope="diffusers")
    assert model.config.motion_max_seq_length == 24
    assert model.config.use_motion_mid_block is mid
    assert run_motion(model, unet_motion_reference(unet, motion)) < 1e-5
    # Without the right scope the result is another one, so the comparison above can fail.
    assert run_motion(load_unet(base, module, norm_scope="v1"), unet_motion_reference(unet, motion)) > 1e-3


def test_norm_scopes_come_from_the_module(tmp_path):
    base = write(tmp_path / "sd.safetensors", to_ldm(four_blocks().state_dict(), 2))

    def scopes(*args):
        config = load_unet(base, *args).config
        return config.resnet_norm_scope, config.motion_norm_scope

    paths = {
        version: write(tmp_path / f"{version}.safetensors", to_original(adapter(**VERSIONS[version]).state_dict()))
        for version in ("v1", "v2", "v3")
    }
    assert scopes(paths["v1"]) == SCOPES["v1"]
    assert scopes(load_motion_module(paths["v3"])) == SCOPES["v3"]
    assert scopes(paths["v1"], "diffusers") == ("frame", "clip")
    assert scopes(paths["v2"], ("clip", "clip")) == ("clip", "clip")
    assert scopes() == ("frame", "clip")
    with pytest.raises(ValueError, match="`norm_scope` is 'v9', expected 'auto' or one of diffusers"):
        scopes(paths["v1"], "v9")
    for pair, name in ((("video", "frame"), "resnet_norm_scope"), (("frame", "video"), "motion_norm_scope")):
        with pytest.raises(ValueError, match=f"`{name}` is 'video', expected 'frame' or 'clip'"):
            resolve_scope(pair, ("frame", "clip"))


def four_blocks():
    return unet2d(
        block_out_channels=FOUR,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )


def test_files_that_do_not_belong_together(tmp_path):
    base = write(tmp_path / "sd.safetensors", to_ldm(four_blocks().state_dict(), 2))
    sdxl = write(tmp_path / "xl.safetensors", to_original(adapter(**VERSIONS["sdxl"]).state_dict()))
    with pytest.raises(
        FileFormatError, match=r"xl\.safetensors: is an SDXL motion module \(block widths 32, 64, 64\)"
    ) as e:
        load_unet(base, sdxl)
    assert "sd.safetensors is a UNet (block widths 32, 32, 64, 64)" in str(e.value)
    thin = adapter(block_out_channels=FOUR, motion_layers_per_block=1)
    with pytest.raises(
        FileFormatError, match=r"has \[1, 1, 1, 1\] motion modules per down block.*\[2, 2, 2, 2\] layers"
    ):
        load_unet(base, write(tmp_path / "thin.safetensors", to_original(thin.state_dict())))


def test_without_motion_modules_the_model_is_the_image_unet(tmp_path):
    unet = unet2d()
    unet.save_pretrained(tmp_path / "unet")
    model = load_unet(tmp_path / "unet")
    inputs, extra, expected = run_unet2d(unet)
    with torch.no_grad():
        assert relative_error(model.forward_frames(*inputs, **extra), expected) < 1e-5
    motion = {k: v for k, v in model.state_dict().items() if ".motion_modules." in k}
    assert motion
    assert all(not v.any() for k, v in motion.items() if ".proj_out." in k)
    assert all(v.std() > 0 for k, v in motion.items() if k.endswith("to_q.weight"))


def test_an_adapter_object_and_a_whole_motion_unet(tmp_path):
    unet, motion = unet2d(), adapter()
    reference = unet_motion_reference(unet, motion)
    reference.save_pretrained(tmp_path / "motion")
    base = write(tmp_path / "sd.safetensors", to_ldm(unet.state_dict(), 2))
    own = MotionAdapter(block_out_channels=(32, 64))
    own.load_state_dict(motion.state_dict())
    for given in (own, tmp_path / "motion"):
        if given is own:
            model = load_unet(base, given)
        else:
            with pytest.warns(UserWarning, match="not used for the motion module: .* tensors of the UNet"):
                model = load_unet(base, given)
        assert run_motion(model, reference) < 1e-5
    assert run_motion(load_unet(tmp_path / "motion"), reference) < 1e-5
    single = tmp_path / "motion" / "diffusion_pytorch_model.safetensors"
    assert run_motion(load_unet(single), reference) < 1e-5
    other = adapter(seed=9)
    replaced = load_unet(single, write(tmp_path / "mm.safetensors", to_original(other.state_dict())), "diffusers")
    assert run_motion(replaced, unet_motion_reference(unet, other)) < 1e-5
    assert run_motion(replaced, reference) > 1e-3


def test_an_animatediff_training_checkpoint(tmp_path):
    unet, motion = unet2d(), adapter()
    state = {**unet.state_dict(), **to_original(motion.state_dict())}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 0}, tmp_path / "checkpoint.ckpt")
    model = load_unet(tmp_path / "checkpoint.ckpt", norm_scope="diffusers")
    assert run_motion(model, unet_motion_reference(unet, motion)) < 1e-5


def test_a_pia_adapter_brings_its_own_input(tmp_path):
    motion = adapter(conv_in_channels=9)
    unet = unet2d()
    unet.save_pretrained(tmp_path / "unet")
    motion.save_pretrained(tmp_path / "pia")
    model = load_unet(tmp_path / "unet", tmp_path / "pia")
    assert model.config.in_channels == 9
    reference = unet_motion_reference(unet, motion)
    assert torch.equal(model.conv_in.weight, reference.conv_in.weight)
    assert torch.equal(model.conv_in.bias, unet.conv_in.bias)


def test_a_diffusers_pipeline_folder(tmp_path):
    unet, motion = unet2d(), adapter()
    unet.save_pretrained(tmp_path / "unet")
    motion.save_pretrained(tmp_path / "motion_adapter")
    (tmp_path / "model_index.json").write_text("{}")
    model = load_unet(tmp_path, load_motion_module(tmp_path), norm_scope="diffusers")
    assert run_motion(model, unet_motion_reference(unet, motion)) < 1e-5


def test_settings_that_the_motion_unet_lacks_are_refused(tmp_path):
    randomise(diffusers.UNet2DConditionModel(**{**unet2d().config, "flip_sin_to_cos": False})).save_pretrained(tmp_path)
    with pytest.raises(FileFormatError, match="`flip_sin_to_cos` is False, the motion UNet exists with True only"):
        load_unet(tmp_path)


def test_layers_that_have_no_parameters_until_they_are_loaded(tmp_path):
    """As ComfyUI's layers are where it maps weights itself."""

    class Late(torch.nn.Linear):
        def __init__(self, in_features, out_features, bias=True, dtype=None, device=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state, prefix, *rest):
            for name in ("weight", "bias"):
                if prefix + name in state:
                    setattr(self, name, torch.nn.Parameter(state[prefix + name]))

    class Operations:
        Linear = Late
        Conv2d, GroupNorm, LayerNorm = torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm

    unet, motion = unet2d(), adapter()
    base = write(tmp_path / "sd.safetensors", to_ldm(unet.state_dict(), 2))
    module = write(tmp_path / "mm.safetensors", to_original(motion.state_dict()))
    model = load_unet(base, module, norm_scope="diffusers", operations=Operations)
    assert isinstance(model.time_embedding.linear_1, Late)
    assert run_motion(model, unet_motion_reference(unet, motion)) < 1e-5
    model.save_pretrained(tmp_path / "folder")
    again = type(model).from_pretrained(tmp_path / "folder", operations=Operations)
    assert same_state(again.state_dict(), model.state_dict())
    inputs, extra, expected = run_unet2d(unet)
    with torch.no_grad():
        assert relative_error(load_unet(base, operations=Operations).forward_frames(*inputs, **extra), expected) < 1e-5


def test_a_file_that_carries_its_configuration(tmp_path):
    """As the bundled model's does, whose head counts and groups no shape tells."""
    reference = UNetMotionModel(
        block_out_channels=(40, 80),
        down_block_types=("CrossAttnDownBlockMotion",) * 2,
        up_block_types=("CrossAttnUpBlockMotion",) * 2,
        norm_num_groups=8,
        num_attention_heads=4,
        motion_num_attention_heads=2,
        cross_attention_dim=24,
        motion_norm_scope="frame",
    )
    state = {f"unet.{k}": v for k, v in reference.state_dict().items()} | {"vae.x": torch.zeros(1)}
    description = json.dumps({"format": 1, "unet": reference.config.to_dict()})
    path = write(tmp_path / "a.safetensors", state, unet_motion=description)
    model = load_unet(path)
    assert model.config == reference.config
    assert same_state(model.state_dict(), reference.state_dict())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("version", VERSIONS)
def test_weights_stored_in_fewer_bits_are_read_as_they_are(tmp_path, version, stored):
    state = {key: value.to(stored) for key, value in to_original(adapter(**VERSIONS[version]).state_dict()).items()}
    path = write(tmp_path / "mm.safetensors", state)
    module = load_motion_module(path, torch.float32)
    assert module.version == version
    for key, value in diffusers_to_animatediff(module.state_dict).items():
        if key.endswith(".pe"):  # a table that was rounded is computed anew
            assert relative_error(value, state[key].float()) < 2 * torch.finfo(stored).eps
        else:
            assert torch.equal(value, state[key].float()), key
    if stored.itemsize == 1:
        with pytest.raises(FileFormatError, match=r"is stored in float8.*give a `dtype`"):
            load_motion_module(path)
    else:
        assert {value.dtype for value in load_motion_module(path).state_dict.values()} == {stored}


def test_a_module_for_sd15_is_refused_by_stable_diffusion_2_and_sdxl(tmp_path):
    module = write(tmp_path / "mm.safetensors", to_original(adapter(**VERSIONS["v3"]).state_dict()))
    for name, config in (("sd2", SD2), ("sdxl", SDXL)):
        base = write(tmp_path / f"{name}.safetensors", to_ldm(unet2d(**config).state_dict(), 2))
        with pytest.raises(FileFormatError, match=r"mm\.safetensors") as caught:
            load_unet(base, module)
        assert f"{name}.safetensors" in str(caught.value)
