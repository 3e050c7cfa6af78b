"""AnimateLCM-I2V: its file is read whole, and computes what its published definition says in float64."""

import diffusers
import pytest
import torch

from tests.formats.files import adapter, relative_error, same_state, to_ldm, to_original, unet2d, write
from tests.formats.published import add_features, encoder_features, encoder_state, with_norms
from unet_motion import MotionAdapter, UNetMotionModel, inspect_file, load_motion_module, load_unet
from unet_motion.formats import KeyMismatchError
from unet_motion.formats.convert import convert

WIDTHS = (32, 32, 64, 64)
FOUR = {
    "block_out_channels": WIDTHS,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*holds no position tables")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("i2v")
    unet, module = unet2d(**FOUR), adapter(block_out_channels=WIDTHS, motion_max_seq_length=64)
    ours = MotionAdapter(block_out_channels=WIDTHS, motion_max_seq_length=64).state_dict()
    module.load_state_dict({k: table for k, table in ours.items() if k.endswith(".pe")}, strict=False)
    encoder = encoder_state(WIDTHS)
    motion = {k: v for k, v in to_original(module.state_dict()).items() if "pos_encoder" not in k}
    base = write(folder / "base.safetensors", to_ldm(unet.state_dict(), 2, "model.diffusion_model."))
    path = write(folder / "motion.safetensors", {**motion, **encoder})
    return base, path, unet, module, encoder


def inputs(clips=2, frames=3, height=9, width=10):
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(clips, 4, frames, height, width, generator=generator)
    sample = sample * torch.linspace(0.5, 2, frames).view(1, 1, -1, 1, 1)
    picture = torch.randn(clips, 4, height, width, generator=generator)
    return sample, picture, torch.randn(clips, 5, FOUR.get("cross_attention_dim", 24), generator=generator)


def reference(files, sample, text, pictures, scale):
    """diffusers' layers in float64 with the original's norms, and the encoder's maps where they were published."""
    _, _, unet, module, encoder = files
    theirs = diffusers.UNetMotionModel.from_unet2d(unet, module).double()
    frames = sample.shape[2]
    theirs = with_norms(theirs, "frame", "frame", frames)
    if pictures is not None:
        add_features(theirs, encoder_features(encoder, pictures, scale))
    with torch.no_grad():
        return theirs(sample.double(), 77, text.double().repeat_interleave(frames, 0)).sample


def run(model, sample, text, **given):
    with torch.no_grad():
        return model(sample, 77, text, added_cond_kwargs=given).sample.double()


def test_the_published_definition_is_computed_at_odd_sizes(files):
    sample, picture, text = inputs()
    model = load_unet(files[0], files[1])
    assert (model.config.resnet_norm_scope, model.config.motion_norm_scope) == ("frame", "frame")
    still = picture[:, :, None].expand(-1, -1, 3, -1, -1)
    expected = reference(files, sample, text, still, 0.8)
    made = run(model, sample, text, image_latents=picture)
    assert relative_error(made, expected) < 1e-5
    # One picture per frame, another scale, and no picture at all.
    moving = still * torch.tensor([1.0, 0.5, 2.0]).view(1, 1, 3, 1, 1)
    other = reference(files, sample, text, moving, 1.5)
    assert relative_error(run(model, sample, text, image_latents=moving, image_motion_scale=1.5), other) < 1e-5
    alone = reference(files, sample, text, None, 0)
    assert relative_error(run(model, sample, text), alone) < 1e-5
    assert relative_error(expected, alone) > 1e-2 and relative_error(expected, other) > 1e-2
    assert relative_error(run(model, sample, text, image_latents=picture, image_strength=0.0), alone) < 1e-5


def test_one_picture_serves_all_clips(files):
    sample, picture, text = inputs()
    model = load_unet(files[0], files[1])
    both = run(model, sample, text, image_latents=picture[:1].expand(2, -1, -1, -1))
    assert relative_error(run(model, sample, text, image_latents=picture[:1]), both) < 1e-6


def test_every_way_of_keeping_it_gives_the_same_model(files, tmp_path):
    sample, picture, text = inputs(clips=1)
    picture = picture[:1]
    expected = run(load_unet(files[0], files[1]), sample, text, image_latents=picture)
    whole = load_unet(files[0], files[1])
    whole.save_pretrained(tmp_path / "whole")
    whole.save_motion_modules(tmp_path / "motion")
    convert(files[1], tmp_path / "a.safetensors", "diffusers")
    checkpoint = {**files[2].state_dict(), **load_motion_module(files[1]).state_dict}
    write(tmp_path / "training.safetensors", {f"module.{k}": v for k, v in checkpoint.items() if ".pos_" not in k})
    models = {
        "folder": UNetMotionModel.from_pretrained(tmp_path / "whole"),
        "folder by content": load_unet(tmp_path / "whole"),
        "adapter folder": load_unet(files[0], tmp_path / "motion", norm_scope="v2"),
        "adapter file": load_unet(files[0], tmp_path / "a.safetensors", norm_scope="v2"),
        "adapter object": UNetMotionModel.from_unet2d(files[2], load_motion_module(files[1]).to_adapter()),
        "checkpoint": load_unet(tmp_path / "training.safetensors", norm_scope="v2"),
    }
    models["adapter object"].config = whole.config
    for words, model in models.items():
        assert relative_error(run(model, sample, text, image_latents=picture), expected) < 1e-6, words
    back = MotionAdapter.from_pretrained(tmp_path / "motion").state_dict()
    assert same_state({k: back[k] for k in files[4]}, files[4])


def test_it_is_recognised_and_nothing_of_it_is_dropped(files, tmp_path):
    info = inspect_file(files[1])
    assert (info.kind, info.version, info.loadable, info.frames) == ("motion_module", "lcm_i2v", True, 64)
    module = load_motion_module(files[1])
    assert same_state({k: module.state_dict[k] for k in files[4]}, files[4])
    part = dict(files[4])
    del part["img_encoder.body.3.block2.bias"]
    motion = to_original(files[3].state_dict())
    with pytest.raises(KeyMismatchError, match=r"1 missing: img_encoder\.body\.3\.block2\.bias"):
        load_motion_module(write(tmp_path / "a.safetensors", {**motion, **part}))


def test_a_picture_that_does_not_fit_is_refused(files):
    sample, picture, text = inputs()
    model = load_unet(files[0], files[1])
    with pytest.raises(ValueError, match=r"`image_latents` have shape \(2, 4, 5, 10\), expected \(2, 4, 9, 10\)"):
        run(model, sample, text, image_latents=picture[:, :, :5])
    plain = load_unet(files[0])
    with pytest.raises(ValueError, match="the model has no image encoder"):
        run(plain, sample, text, image_latents=picture)
