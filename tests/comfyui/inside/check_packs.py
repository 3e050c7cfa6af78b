"""Other packs beside ours: run with UNET_MOTION_PACKS naming a folder with their checkouts."""

from __future__ import annotations

import sys

import comfy.sample
import folder_paths
import pytest
import torch
from check_context_windows import mean_of_windows, windowed
from check_control import controlled, controlnet, hints
from pack.nodes.host.model.apply import apply_motion_module
from pack.unet_motion.formats import load_motion_module
from peer import FOLDER, load_other_pack, narrow, original_names
from safetensors.torch import save_file
from sampled import difference, models, noise, sample, text
from small import motion_module, relative, sd15

pytestmark = pytest.mark.skipif(not FOLDER, reason="UNET_MOTION_PACKS names no folder with other packs")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair():
    return models()


@pytest.fixture(scope="module")
def before(pair):
    """Values from before any other pack was imported: ComfyUI's MODEL, ours without and with acting modules."""
    return [sample(model) for model in (*pair, models(active=True)[1])]


@pytest.fixture
def imported(before):
    """Imports a pack as ComfyUI does."""

    return load_other_pack


IMAGE_WIDTH = 64


def ip_adapter() -> dict:
    generator = torch.Generator().manual_seed(50)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    project = {"proj.weight": random(4 * 768, IMAGE_WIDTH), "proj.bias": torch.zeros(4 * 768)}
    project |= {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    widths = [32, 32, 64, 64, 128, 128, *[128] * 3, *[64] * 3, *[32] * 3, 128]
    keys = {
        f"{2 * place + 1}.to_{part}_ip.weight": random(width, 768)
        for place, width in enumerate(widths)
        for part in "kv"
    }
    return {"image_proj": project, "ip_adapter": keys}


def test_ip_adapter_plus_acts_with_one_image_and_with_one_per_frame(pair, before, imported):
    nodes = imported("ComfyUI_IPAdapter_plus").NODE_CLASS_MAPPINGS
    images = torch.randn(3, IMAGE_WIDTH, generator=torch.Generator().manual_seed(51))

    def applied(model, name, rows):
        embeds = images[rows]
        arguments = (ip_adapter(), embeds, 1.5, "linear", 0.0, 1.0, torch.zeros_like(embeds))
        return nodes[name]().apply_ipadapter(model, *arguments)[0]

    with torch.inference_mode(False):
        core, ours = (sample(applied(model, "IPAdapterEmbeds", [0])) for model in pair)
        together = sample(applied(pair[1], "IPAdapterEmbedsBatch", [0, 1, 2]))
        moving = sample(applied(models(active=True)[1], "IPAdapterEmbedsBatch", [0, 1, 2]))
        assert relative(ours, core) < TOLERANCE < 1e-2 < relative(ours, before[1])
        for row in range(3):
            alone = sample(applied(pair[0], "IPAdapterEmbedsBatch", [row]), start=noise()[row : row + 1])
            assert relative(together[row : row + 1], alone) < TOLERANCE
    assert min(difference(together, ours)[1:]) > 1e-3
    assert relative(moving, before[2]) > 1e-2


def test_ip_adapter_plus_pictures_follow_the_frames_of_windows(before, imported):
    """A picture for each frame in windows and views, beside runs of the windows with their own pictures alone."""
    node = imported("ComfyUI_IPAdapter_plus").NODE_CLASS_MAPPINGS["IPAdapterEmbedsBatch"]()
    frames, sizes = 7, {"length": 4, "overlap": 1}
    moving, start = models(active=True)[1], noise(7)
    pictures = torch.randn(frames, IMAGE_WIDTH, generator=torch.Generator().manual_seed(51))

    def run(model, rows, own=None):
        embeds = pictures[rows if own is None else own]
        arguments = (ip_adapter(), embeds, 1.5, "linear", 0.0, 1.0, torch.zeros_like(embeds))
        return sample(node.apply_ipadapter(model, *arguments)[0], start=start[rows])

    rows = list(range(frames))
    with torch.inference_mode(False):
        found = [run(windowed(moving, **sizes, windows_at_once=n), rows) for n in (1, 2)]
        alone = mean_of_windows(lambda window: run(moving, window), frames, **sizes)
        moved = run(windowed(moving, **sizes), rows, rows[1:] + rows[:1])
        views, turned = (run(windowed(moving, **sizes, views=True), rows, own) for own in (rows, rows[::-1]))
    assert relative(found[0], alone) < TOLERANCE and relative(found[1], found[0]) < TOLERANCE
    assert relative(moved, alone) > 1e-3 and relative(turned, views) > 1e-3


def test_advanced_controlnet_weighs_each_frame(pair, before, imported):
    imported("ComfyUI-Advanced-ControlNet")
    nodes = sys.modules["ComfyUI_Advanced_ControlNet.adv_control.nodes"]
    weights = None
    for frame, strength in enumerate((1.0, 0.0, 0.5)):
        weights = nodes.LatentKeyframeNode.execute(frame, strength, weights)[0]

    def controlled(kf):
        apply = nodes.AdvancedControlNetApply.execute
        out = apply(text(1), text(2), controlnet(), hints(3), 1.0, 0.0, 1.0, latent_kf_override=kf)
        return {"positive": out[0], "negative": out[1]}

    core, ours = (sample(model, **controlled(weights)) for model in pair)
    assert relative(ours, core) < TOLERANCE
    changes, full = difference(ours, before[1]), difference(ours, sample(pair[1], **controlled(None)))
    assert changes[1] < TOLERANCE < 1e-2 < min(changes[0], changes[2])
    assert full[0] < TOLERANCE < 1e-3 < min(full[1], full[2])
    moving = models(active=True)[1]
    assert relative(sample(moving, **controlled(weights)), before[2]) > 1e-2


def test_advanced_controlnet_and_one_of_comfyui_before_it_follow_the_frames_of_windows(before, imported):
    imported("ComfyUI-Advanced-ControlNet")
    nodes = sys.modules["ComfyUI_Advanced_ControlNet.adv_control.nodes"]
    frames, sizes = 7, {"length": 4, "overlap": 1}
    moving, start, images = models(active=True)[1], noise(7), hints(7)

    def run(model, rows):
        given = controlled(controlnet(24), images=images[rows])
        weights = None
        for place, row in enumerate(rows):
            weights = nodes.LatentKeyframeNode.execute(place, row / frames, weights)[0]
        apply = nodes.AdvancedControlNetApply.execute
        out = apply(
            given["positive"], given["negative"], controlnet(), images[rows], 1.0, 0.0, 1.0, latent_kf_override=weights
        )
        return sample(model, start=start[rows], positive=out[0], negative=out[1])

    found = [run(windowed(moving, **sizes, windows_at_once=n), list(range(frames))) for n in (1, 2)]
    assert relative(found[0], mean_of_windows(lambda rows: run(moving, rows), frames, **sizes)) < TOLERANCE
    assert relative(found[1], found[0]) < TOLERANCE


@pytest.fixture
def evolved(imported, tmp_path, monkeypatch):
    """Makes MODELs of AnimateDiff-Evolved's own loader and of ours, with the same weights."""
    imported("ComfyUI-AnimateDiff-Evolved")
    path = tmp_path / "mm_small_v2.safetensors"
    save_file(original_names(motion_module().state_dict), path)
    folder_paths.add_model_folder_path("animatediff_models", str(tmp_path))
    narrow(monkeypatch)
    loader = sys.modules["ComfyUI_AnimateDiff_Evolved"].NODE_CLASS_MAPPINGS["ADE_AnimateDiffLoaderGen1"]()
    base = sd15()

    def load(**options):
        return loader.load_mm_and_inject_params(base, path.name, "linear (HotshotXL/default)", **options)[0]

    return base, load, apply_motion_module(base, load_motion_module(path), beta_schedule="linear")


def test_animatediff_evolved_and_ours_change_nothing_for_each_other_and_agree(pair, before, evolved):
    for model, values in zip((*pair, models(active=True)[1]), before, strict=True):
        assert torch.equal(sample(model), values)
    base, load, ours = evolved
    moved = sample(load())
    assert relative(moved, before[0]) > 1e-2
    assert relative(sample(ours), moved) < 1e-3
    assert torch.equal(sample(base), before[0])
    assert torch.equal(sample(load()), moved)


LOOPED, STANDARD, STATIC = (
    f"ADE_{name}ContextOptions" for name in ("LoopedUniform", "StandardUniform", "StandardStatic")
)
WINDOWS = {
    "looped": (LOOPED, {"closed_loop": False, "fuse_method": "flat"}),
    "closed loop": (LOOPED, {"closed_loop": True, "fuse_method": "pyramid"}),
    "stride 2": (LOOPED, {"closed_loop": False, "context_stride": 2, "fuse_method": "flat"}),
    "standard": (STANDARD, {"fuse_method": "pyramid"}),
    "static": (STATIC, {"fuse_method": "flat"}),
    "static, relative": (STATIC, {"fuse_method": "relative"}),
    "static, overlap-linear": (STATIC, {"fuse_method": "overlap-linear"}),
    "FreeNoise": (STANDARD, {"fuse_method": "pyramid"}),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_context_windows_draw_what_animatediff_evolveds_draw(evolved, kind):
    nodes = sys.modules["ComfyUI_AnimateDiff_Evolved"].NODE_CLASS_MAPPINGS
    node, chosen = WINDOWS[kind]
    given = {"context_length": 16, "context_overlap": 4, "context_stride": 1, **chosen}
    if node == STATIC:
        del given["context_stride"]
    settings = {}
    if kind == "FreeNoise":
        sampling = nodes["ADE_AnimateDiffSamplingSettings"]()
        settings["sample_settings"] = sampling.create_settings(0, "FreeNoise", "comfy", 0)[0]
    _, load, ours = evolved
    start = comfy.sample.prepare_noise(torch.zeros(40, 4, 8, 8), 3)
    run = {"start": start, "steps": 2, "cfg": 2.0}
    theirs = sample(load(context_options=nodes[node]().create_options(**given)[0], **settings), **run)
    schedule = {LOOPED: "looped_uniform", STANDARD: "standard_uniform", STATIC: "standard_static"}[node]
    found = sample(
        windowed(
            ours, length=16, overlap=4, stride=given.get("context_stride", 1), schedule=schedule,
            closed_loop=given.get("closed_loop", False), fuse=given["fuse_method"], free_noise=kind == "FreeNoise",
        ),
        **run,
    )  # fmt: skip
    assert relative(found, theirs) < 1e-5


@pytest.mark.parametrize("fuse", ["pyramid", "flat"])
def test_views_draw_what_animatediff_evolveds_views_draw(evolved, fuse):
    nodes = sys.modules["ComfyUI_AnimateDiff_Evolved"].NODE_CLASS_MAPPINGS
    views = nodes["ADE_StandardStaticViewOptions"]().create_options(16, 4, fuse)[0]
    _, load, ours = evolved
    run = {"start": comfy.sample.prepare_noise(torch.zeros(40, 4, 8, 8), 3), "steps": 2, "cfg": 2.0}
    theirs = sample(load(context_options=nodes["ADE_ViewsOnlyContextOptions"]().create_options(views)[0]), **run)
    sizes = {"length": 16, "overlap": 4, "schedule": "standard_static", "fuse": fuse}
    assert relative(sample(windowed(ours, **sizes, views=True), **run), theirs) < 1e-5
    assert relative(sample(windowed(ours, **sizes), **run), theirs) > 1e-4
