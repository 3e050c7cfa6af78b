"""A converted or merged file computes what its source does, for every kind and form, or it is not written."""

from __future__ import annotations

import json

import pytest
import torch

from tests.formats.files import SDXL, adapter, randomise, relative_error, to_ldm, to_original, unet2d, write
from tests.formats.published import encoder_state
from tests.formats.test_kinds import THREE, to_hotshot
from tests.full_disk import full_disk
from unet_motion import MotionAdapter, UNetMotionModel, load_motion_module, load_unet
from unet_motion.bundled.parts import WEIGHTS
from unet_motion.cli import main
from unet_motion.files.description import description_tensor
from unet_motion.formats import FileFormatError
from unet_motion.formats.convert import FORMS, convert

pytestmark = pytest.mark.filterwarnings("ignore:.*holds no position tables", "ignore:.*has motion modules in")

FOUR = {
    "block_out_channels": (32, 32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
WIDTHS = {"block_out_channels": FOUR["block_out_channels"]}
# Nothing of this is to be seen in tensors, and each of it differs from what published models have.
ODD_MODULE = {"motion_num_attention_heads": 2, "motion_norm_num_groups": 16}
ODD_SCOPES = {"resnet_norm_scope": "clip", "motion_norm_scope": "clip"}
ODD_IMAGE = {"norm_num_groups": 16, "norm_eps": 1e-2, "attention_head_dim": 4, "mid_block_scale_factor": 2.0}
ODD_UNET = {"norm_num_groups": 16, "norm_eps": 1e-2, "num_attention_heads": 4, "motion_num_attention_heads": 2}
ADDED = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}  # fmt: skip


def described(config, key, **more):
    return {"unet_motion": json.dumps({key: config, **more})}


def layers_of(kind):
    """As few as there can be; a picture is added before the second motion module of a block."""
    return 2 if kind == "lcm_i2v" else 1


def module_state(kind, **config):
    shapes = {
        "v1": {**WIDTHS, "motion_max_seq_length": 24, "use_motion_mid_block": False},
        "v2": WIDTHS, "lcm": WIDTHS, "lcm_i2v": WIDTHS, "diffusers": WIDTHS,
        "v3": {**WIDTHS, "use_motion_mid_block": False},
        "pia": {**WIDTHS, "use_motion_mid_block": False, "conv_in_channels": 9},
        "sdxl": {"block_out_channels": (64, 64, 128), "use_motion_mid_block": False},
        "hotshot": {
            "block_out_channels": (64, 64, 128), "use_motion_mid_block": False, "motion_max_seq_length": 24,
        },
    }  # fmt: skip
    module = adapter(**shapes[kind], motion_layers_per_block=layers_of(kind), **config)
    return module, dict(module.state_dict())


def motion_module(folder, kind, odd):
    module, state = module_state(kind, **(ODD_MODULE if odd else {}))
    config = {**{k: v for k, v in module.config.items() if not k.startswith("_")}, **ODD_SCOPES}
    own = {k: v for k, v in state.items() if k.startswith("conv_in.")}
    motion = {k: v for k, v in state.items() if k not in own}
    if kind == "diffusers":
        named = motion
    elif kind == "hotshot":
        named = to_hotshot(motion)
    else:
        named = to_original(motion)
    if kind in ("lcm", "lcm_i2v"):
        named = {k: v for k, v in named.items() if "pos_encoder" not in k}
        config["motion_max_seq_length"] = 64
    if kind == "lcm_i2v":
        own, config["use_image_encoder"] = encoder_state(FOUR["block_out_channels"]), True
    header = described(config, "motion_adapter") if odd else {}
    return write(folder / "source.safetensors", {**named, **own}, **header)


def image_unet(folder, kind, odd):
    unet = unet2d(**{**(SDXL if kind == "sdxl" else {}), **(ODD_IMAGE if odd else {}), "layers_per_block": 1})
    if odd:  # a file of its own cannot say it
        unet.save_pretrained(folder / "source")
        return folder / "source"
    state = unet.state_dict() if kind == "unet2d" else to_ldm(unet.state_dict(), 1)
    return write(folder / "source.safetensors", dict(state))


def motion_unet(folder, kind, odd):
    down, up = ("CrossAttnDownBlockMotion", "DownBlockMotion"), ("UpBlockMotion", "CrossAttnUpBlockMotion")
    small = {"block_out_channels": (32, 64), "down_block_types": down, "up_block_types": up, "layers_per_block": 1}
    config = {**small, "cross_attention_dim": 24, **({**ODD_UNET, **ADDED} if odd else {})}
    unet = randomise(UNetMotionModel(**config))
    state = dict(unet.state_dict())
    description = {**unet.config.to_dict(), **(ODD_SCOPES if odd else {})}
    header = described(description, "unet") if odd else {}
    spatial = {k: v for k, v in state.items() if ".motion_modules." not in k}
    motion = {k: v for k, v in state.items() if k not in spatial}
    if kind == "animatediff_unet":
        state = {**spatial, **to_original(motion)}
    elif kind == "ldm_unet_motion":  # as ComfyUI's nodes save it: always with a description, as a tensor
        state = {**to_ldm(spatial, 1), **{f"motion.{k}": v for k, v in motion.items()}}
        state = {f"model.diffusion_model.{k}": v for k, v in state.items()}
        state["unet_motion"] = description_tensor({"unet": description, "comfyui": {"inpaint": False}})
        header = {}
    return write(folder / "source.safetensors", state, **header)


MODULES = ("v1", "v2", "v3", "lcm", "lcm_i2v", "pia", "hotshot", "sdxl", "diffusers")
IMAGES = ("sd", "sdxl unet", "unet2d")
UNETS = ("unet_motion", "animatediff_unet", "ldm_unet_motion")
KINDS = (*MODULES, *IMAGES, *UNETS)


def source(folder, kind, odd):
    folder.mkdir(exist_ok=True, parents=True)
    if kind in MODULES:
        return motion_module(folder, kind, odd)
    return image_unet(folder, kind.removesuffix(" unet"), odd) if kind in IMAGES else motion_unet(folder, kind, odd)


class Originals:
    """Files to convert and the image UNets that their motion modules go into, each made once: nobody changes them."""

    def __init__(self, folder):
        self.folder, self.outputs = folder, {}

    def path(self, kind, odd):
        folder = self.folder / f"{kind}, odd" if odd else self.folder / kind
        return next(folder.glob("source*")) if folder.exists() else source(folder, kind, odd)

    def base(self, kind, odd):
        config = {**(THREE if kind in ("sdxl", "hotshot") else FOUR), "layers_per_block": layers_of(kind)}
        base = self.folder / f"base of {len(config['block_out_channels'])}, {config['layers_per_block']}, {odd}"
        if not base.exists():
            unet2d(**config, **({"norm_num_groups": 16} if odd else {})).save_pretrained(base)
        return base

    def loaded(self, path, kind, odd):
        """What the library makes of a file; motion modules in an image UNet that they fit."""
        if kind not in MODULES:
            return load_unet(path, dtype=torch.float32)
        return load_unet(self.base(kind, odd), path, dtype=torch.float32)

    def output(self, kind, odd):
        """What the UNet of an original computes."""
        if (kind, odd) not in self.outputs:
            self.outputs[kind, odd] = run(self.loaded(self.path(kind, odd), kind, odd))
        return self.outputs[kind, odd]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return Originals(tmp_path_factory.mktemp("originals"))


def run(unet):
    """Two clips of three frames: (2, C, 3, 8, 8) -> (2, 4, 3, 8, 8)."""
    generator = torch.Generator().manual_seed(3)
    config = unet.config
    sample = torch.randn(2, config.in_channels, 3, 8, 8, generator=generator)
    text = torch.randn(2, 5, config.cross_attention_dim, generator=generator)
    added = {}
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": torch.randn(2, pooled, generator=generator),
            "time_ids": torch.randint(0, 500, (2, 6), generator=generator).float(),
        }
    if config.use_image_encoder:
        added["image_latents"] = torch.randn(2, 4, 3, 8, 8, generator=generator)
    with torch.no_grad():
        return unet(sample, 321, text, added_cond_kwargs=added or None)[0]


def is_refused(kind, form, odd):
    """Stable Diffusion's names have no place for settings, and image UNets no motion modules for HotshotXL's."""
    return kind in IMAGES and (form == "hotshot" or odd and form == "original")


@pytest.mark.parametrize("odd", [False, True], ids=["as published", "described"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_file_computes_the_same_in_every_form(originals, tmp_path, kind, odd):
    start, expected = originals.path(kind, odd), originals.output(kind, odd)
    forms = [form for form in FORMS if not is_refused(kind, form, odd)]
    made = {form: tmp_path / "to" / ("folder" if form == "folder" else f"{form}.safetensors") for form in FORMS}
    for form in set(FORMS) - set(forms):
        with pytest.raises(FileFormatError) as error:
            convert(start, made[form], form)
        assert str(error.value).startswith(f"{start}: "), "the file to be converted is what an error is about"
        assert str(error.value).count(". ") == 0 and len(str(error.value)) < 600
        assert not made[form].exists()
    for form, following in zip(forms, [*forms[1:], forms[0]], strict=True):
        convert(start, made[form], form)
        assert relative_error(run(originals.loaded(made[form], kind, odd)), expected) < 1e-6, form
        # From what was made on to another form.
        again = tmp_path / "again" / made[following].name
        convert(made[form], again, following)
        assert relative_error(run(originals.loaded(again, kind, odd)), expected) < 1e-6, (form, following)


@pytest.mark.parametrize("form", ["original", "diffusers"])
def test_a_file_that_its_readers_would_not_know_is_not_written_and_the_error_names_the_source(tmp_path, form):
    start, out = source(tmp_path / "from", "v2", False), tmp_path / "out.safetensors"
    with pytest.raises(FileFormatError) as error:
        convert(start, out, form, prefix="controlnet_down_blocks.")
    said = f"{start}: cannot be written in the form {form}, whose readers would say: {out}: looks like a SparseCtrl"
    assert str(error.value).startswith(said) and not out.exists()


@pytest.mark.parametrize("kind", [*MODULES, *UNETS])
def test_a_description_makes_a_difference(originals, kind):
    """The settings that the test above keeps would be seen in its outputs if they were lost."""
    module, unet = kind in MODULES, originals.loaded(originals.path(kind, True), kind, True)
    expected, config = originals.output(kind, True), unet.config
    settings = [{"motion_norm_scope": "frame"}, {"resnet_norm_scope": "frame"}, {"motion_num_attention_heads": 8}]
    settings += [] if module else [{"norm_num_groups": 32}, {"num_attention_heads": 8}, {"norm_eps": 1e-5}]
    for change in settings:
        other = UNetMotionModel.from_config(config.replace(**change))
        other.load_state_dict(unet.state_dict())
        assert relative_error(run(other.eval()), expected) > 1e-4, change


@pytest.mark.parametrize("form", FORMS)
def test_the_bundled_model_draws_the_same_in_every_form(tmp_path, form):
    out = tmp_path / ("folder" if form == "folder" else "out.safetensors")
    convert(WEIGHTS, out, form)
    first, second = (load_unet(path, dtype=torch.float32) for path in (WEIGHTS, out))
    assert second.config == first.config
    assert relative_error(run(second), run(first)) < 1e-6


@pytest.mark.parametrize("odd", [False, True], ids=["as published", "described"])
@pytest.mark.parametrize("kind", [*MODULES, "unet_motion", "ldm_unet_motion"])
def test_a_merge_of_a_file_with_itself_computes_the_same(originals, tmp_path, kind, odd):
    start, out = originals.path(kind, odd), tmp_path / "out.safetensors"
    assert main(["merge", f"{start}:0.5", f"{start}:0.5", "--out", str(out)]) == 0
    if kind in MODULES:
        expected, found = originals.output(kind, odd), run(originals.loaded(out, kind, odd))
    else:
        expected, found = (run(load_unet(start, module, dtype=torch.float32)) for module in (start, out))
    assert relative_error(found, expected) < 1e-6


def test_modules_whose_weights_mean_something_else_are_not_mixed(tmp_path, capsys):
    module, state = module_state("v3")
    plain = write(tmp_path / "a.safetensors", to_original(state))
    config = {k: v for k, v in module.config.items() if not k.startswith("_")}
    other = described({**config, "motion_num_attention_heads": 2}, "motion_adapter")
    other = write(tmp_path / "b.safetensors", to_original(state), **other)
    out = tmp_path / "out.safetensors"
    assert main(["merge", str(plain), str(other), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "b.safetensors: has motion_num_attention_heads 2, expected 8 as in" in said and said.count("\n") == 1
    assert not out.exists()


def test_what_a_description_says_besides_is_kept(tmp_path):
    module, state = module_state("v3", **ODD_MODULE)
    config = {k: v for k, v in module.config.items() if not k.startswith("_")}
    header = described(config, "motion_adapter", training={"steps": 7})
    start = write(tmp_path / "a.safetensors", to_original(state), **header)
    for form in ("diffusers", "hotshot", "original"):
        convert(start, tmp_path / f"{form}.safetensors", form)
        from safetensors import safe_open

        with safe_open(tmp_path / f"{form}.safetensors", "pt") as file:
            found = json.loads(file.metadata()["unet_motion"])
        assert found["training"] == {"steps": 7} and found["motion_adapter"]["motion_num_attention_heads"] == 2


def test_a_config_beside_the_new_file_that_would_be_read_for_it_is_overruled(tmp_path):
    """A file of a diffusers model beside the config.json of another one."""
    start = source(tmp_path / "from", "unet_motion", False)
    randomise(UNetMotionModel(**{**load_unet(start).config.to_dict(), "num_attention_heads": 4})).save_pretrained(
        tmp_path / "folder"
    )
    out = tmp_path / "folder" / "other.safetensors"
    convert(start, out, "diffusers")
    assert relative_error(run(load_unet(out)), run(load_unet(start))) < 1e-6


def test_pias_input_layer_is_still_that_of_the_modules(tmp_path):
    base = unet2d(**FOUR, layers_per_block=1)
    base.save_pretrained(tmp_path / "base")
    model = load_unet(tmp_path / "base", motion_module(tmp_path, "pia", False))
    model.save_pretrained(tmp_path / "whole")
    for form in ("folder", "diffusers", "original"):
        out = tmp_path / (f"{form}" if form == "folder" else f"{form}.safetensors")
        convert(tmp_path / "whole", out, form)
        load_unet(out).save_motion_modules(tmp_path / "again")
        assert MotionAdapter.from_pretrained(tmp_path / "again").config.conv_in_channels == 9
    assert load_motion_module(tmp_path / "again").config.conv_in_channels == 9


def test_a_file_that_cannot_be_written_whole_is_an_oserror_and_no_file(tmp_path, capsys):
    start = source(tmp_path / "from", "v3", False)
    (tmp_path / "to").mkdir()
    with full_disk(100_000):
        for form in ("original", "diffusers", "folder"):
            out = tmp_path / "to" / ("folder" if form == "folder" else "out.safetensors")
            with pytest.raises(OSError, match="to"):
                convert(start, out, form)
        assert main(["merge", str(start), "--out", str(tmp_path / "to" / "out.safetensors")]) == 2
    assert "File too large" in capsys.readouterr().err
    assert [path for path in (tmp_path / "to").rglob("*") if path.is_file()] == []
