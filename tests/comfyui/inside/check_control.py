"""ControlNet, T2I-Adapter and ControlLora on our MODEL, against ComfyUI's own MODEL with the same control."""

from __future__ import annotations

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from sampled import SIZE, difference, execute, models, noise, sample, text
from small import CPU, UNET, WIDTHS, fill, relative

from nodes import ControlNetApplyAdvanced

TOLERANCE = 1e-4


def control_unet(seed: int, **changes) -> torch.nn.Module:
    config = {key: value for key, value in {**UNET, **changes}.items() if key != "out_channels"}
    unet = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    fill(unet, seed)
    return unet.requires_grad_(False).eval()


def controlnet(seed: int = 20, **changes) -> comfy.controlnet.ControlNet:
    return comfy.controlnet.ControlNet(control_unet(seed, **changes), load_device=CPU)


def t2i(widths: tuple[int, ...] = WIDTHS) -> comfy.controlnet.T2IAdapter:
    adapter = comfy.t2i_adapter.adapter.Adapter(
        channels=list(widths), nums_rb=1, cin=192, ksize=1, sk=True, use_conv=False, xl=False
    )
    fill(adapter, 21)
    return comfy.controlnet.T2IAdapter(adapter.requires_grad_(False), adapter.input_channels, 8, "nearest-exact", CPU)


def control_lora() -> comfy.controlnet.ControlLora:
    """Takes what it does not bring from the MODEL, by latent-diffusion names."""
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    weights = {key: value for key, value in control_unet(22).state_dict().items() if key.startswith(own)}
    generator = torch.Generator().manual_seed(23)
    for layer, width in (("input_blocks.1.1.transformer_blocks.0.attn1.to_q", 32), ("input_blocks.8.1.proj_in", 128)):
        ends = (1, 1) if "proj" in layer else ()
        weights[f"{layer}.up"] = torch.randn(width, 4, *ends, generator=generator)
        weights[f"{layer}.down"] = 0.2 * torch.randn(4, width, *ends, generator=generator)
    weights["lora_controlnet"] = torch.tensor([])
    return comfy.controlnet.ControlLora(weights)


def hints(frames: int, seed: int = 30) -> torch.Tensor:
    """Images (frames, H, W, 3)."""
    size = [8 * side for side in SIZE]
    return torch.rand(frames, *size, 3, generator=torch.Generator().manual_seed(seed))


def controlled(*controls, images=None, strength=1.0, start=0.0, end=1.0):
    """Both conditionings with the controls in a chain."""
    positive, negative = text(1), text(2)
    for index, control in enumerate(controls):
        image = hints(1, 30 + index) if images is None else images
        positive, negative = ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control, image, strength, start, end
        )
    return {"positive": positive, "negative": negative}


KINDS = {
    "ControlNet": lambda: (controlnet(),),
    "two ControlNets": lambda: (controlnet(), controlnet(24)),
    "T2I-Adapter": lambda: (t2i(),),
    "ControlLora": lambda: (control_lora(),),
    "all in a chain": lambda: (control_lora(), t2i(), controlnet()),
}


@pytest.fixture(scope="module")
def pair():
    return models()


@pytest.fixture(scope="module")
def plain(pair):
    return [sample(model) for model in pair]


@pytest.mark.parametrize("kind", KINDS)
def test_each_control_does_what_it_does_to_comfyuis_model_and_nothing_stays(pair, plain, kind):
    controls = KINDS[kind]()
    for images in (hints(1), hints(3)):
        core, ours = (sample(model, **controlled(*controls, images=images)) for model in pair)
        assert relative(core, plain[0]) > 0.02
        assert relative(ours, core) < TOLERANCE
    assert torch.equal(sample(pair[1]), plain[1])


@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter", "ControlLora"])
def test_a_hint_per_frame_gives_each_frame_what_it_gives_alone(pair, kind):
    images = hints(3)
    together = sample(pair[1], **controlled(*KINDS[kind](), images=images))
    for index in range(3):
        one = {"start": noise()[index : index + 1], **controlled(*KINDS[kind](), images=images[index : index + 1])}
        assert relative(together[index : index + 1], sample(pair[0], **one)) < TOLERANCE
    one_for_all = sample(pair[1], **controlled(*KINDS[kind](), images=images[:1]))
    changes = difference(one_for_all, together)
    assert changes[0] < TOLERANCE and min(changes[1:]) > 1e-3


def test_a_hint_of_one_frame_reaches_the_others_through_the_motion_modules():
    _, moving = models(active=True)
    first, second = hints(3), hints(3)
    second[0] = hints(1, 77)[0]
    changes = difference(*(sample(moving, **controlled(controlnet(), images=images)) for images in (first, second)))
    assert min(changes) > 1e-4 and changes[0] > 1e-3
    assert relative(sample(moving), sample(moving, **controlled(controlnet(), images=first))) > 0.02


@pytest.mark.parametrize("strength", [0.3, 1.7])
def test_strength_scales_as_in_comfyui(pair, strength):
    core, ours = (sample(model, **controlled(controlnet(), t2i(), strength=strength)) for model in pair)
    full = sample(pair[1], **controlled(controlnet(), t2i()))
    assert relative(ours, core) < TOLERANCE and relative(ours, full) > 1e-2


def test_strength_zero_changes_nothing(pair, plain):
    assert torch.equal(sample(pair[1], **controlled(controlnet(), t2i(), strength=0.0)), plain[1])


def test_control_acts_in_its_range_of_the_sampling_only(pair):
    def run(model, **extra):
        seen = []
        out = sample(model, steps=3, callback=lambda step, x0, x, total: seen.append(x0.clone()), **extra)
        return out, seen

    _, without = run(pair[1])
    _, always = run(pair[1], **controlled(controlnet()))
    for start, end, same in ((0.5, 1.0, True), (0.0, 0.5, False)):
        ranged = {"start": start, "end": end}
        (core, _), (ours, seen) = (run(model, **controlled(controlnet(), **ranged)) for model in pair)
        assert relative(ours, core) < TOLERANCE
        assert torch.equal(seen[0], (without if same else always)[0])
        assert relative(seen[-1], without[-1]) > 1e-3 and relative(seen[-1], always[-1]) > 1e-4


@pytest.mark.parametrize(
    ("control", "sentence"),
    [
        (lambda: controlnet(model_channels=64), r"ControlNet residual for middle block 0 .*another base model"),
        (lambda: t2i((64, 128, 256, 256)), r"T2I-Adapter residual for input block 2 .*another base model"),
    ],
)
def test_a_control_model_of_another_base_is_an_error(pair, control, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(pair[1], **controlled(control()))


def test_control_beside_a_node_that_resizes_inside_the_unet_is_an_error(pair):
    model = execute(PatchModelAddDownscale, pair[1], 3, 2.0, 0.0, 1.0, True, "bicubic", "bicubic")
    with pytest.raises(ValueError, match="another node .* resizes the UNet's pictures"):
        sample(model, **controlled(controlnet()))


def test_other_packs_find_the_animation_when_a_control_runs(pair):
    seen = []

    class Looking(comfy.controlnet.ControlNet):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            seen.append(dict(transformer_options["ad_params"]))
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)

    control = Looking(control_unet(20), load_device=CPU)
    control.copy = lambda: control
    sample(pair[1], **controlled(control))
    assert seen[0] == {"full_length": 3, "context_length": 3, "sub_idxs": None}
