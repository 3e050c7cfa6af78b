"""The host against ComfyUI's own UNet: the same weights, motion modules that add nothing, everything else live."""

from __future__ import annotations

import pytest
import torch
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.ldm_view import LDMView
from pack.nodes.host.training.frozen import bare_unet
from pack.unet_motion import UNetMotionConfig
from small import inputs, motion_module, options, relative, sd15

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pair():
    """ComfyUI's UNet and the host's, which must agree."""
    base = sd15()
    return base.model.diffusion_model, apply_motion_module(base, motion_module(active=False)).model.diffusion_model


def both(pair, arguments, make_options=options, make_control=lambda: None):
    core, ours = (unet(**arguments, control=make_control(), transformer_options=make_options()) for unet in pair)
    assert core.std() > 0.1
    return core, ours


def test_parameter_names_are_those_of_comfyui_and_motion_names_of_our_own(pair):
    core, ours = (set(unet.state_dict()) for unet in pair)
    assert core <= ours
    assert {name.split(".")[0] for name in ours - core} == {"motion"}
    assert "motion.down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_q.weight" in ours


def test_every_parameter_of_the_core_is_registered_once(pair):
    view = pair[1]
    registered = [id(p) for p in view.parameters()]
    assert sorted(registered) == sorted(id(p) for p in view.core.parameters())
    buffers = {id(b) for b in view.buffers()}
    assert buffers == {id(b) for b in view.core.buffers()}


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (3, 12, 20), (16, 8, 8), (2, 9, 11)])
def test_output_equals_comfyui(pair, frames, height, width):
    core, ours = both(pair, inputs(frames, height, width))
    assert relative(ours, core) < TOLERANCE


def test_output_equals_comfyui_with_motion_only_in_the_motion_modules():
    base = sd15()
    moving = apply_motion_module(base, motion_module()).model.diffusion_model
    arguments = inputs(4)
    core, ours = both((base.model.diffusion_model, moving), arguments)
    assert relative(ours, core) > 0.05
    # Frames see one another through the motion modules, and clips do not.
    changed = {**arguments, "x": arguments["x"].clone()}
    changed["x"][0] += 1
    after = moving(**changed, transformer_options=options())
    moved = (after - ours).flatten(1).norm(dim=1) / ours.flatten(1).norm(dim=1)
    assert (moved[:4] > 1e-3).all() and (moved[4:] < 1e-6).all()


def control(frames: int, conds: int = 2, height: int = 8, width: int = 12) -> dict:
    """Residuals in ComfyUI's order, all different: 12 for the skips, one for the middle, T2I features with gaps."""
    generator = torch.Generator().manual_seed(3)
    rows = frames * conds

    def residual(channels, level, rows=rows):
        size = (-(-height // 2**level), -(-width // 2**level))
        return torch.randn(rows, channels, *size, generator=generator)

    skips = [(32, 0)] * 3 + [(32, 1)] + [(64, 1)] * 2 + [(64, 2)] + [(128, 2)] * 2 + [(128, 3)] * 3
    output = [residual(*skip) for skip in skips]
    output[5] = None
    output[7] = output[7][:1]
    intra = [None, None, residual(32, 0), None, None, residual(64, 1), None, None, residual(128, 2)]
    return {"output": output, "middle": [residual(128, 3)], "input": intra[::-1]}


@pytest.mark.parametrize("kinds", [("output", "middle"), ("input",), ("input", "middle", "output")])
def test_control_residuals_land_where_comfyui_puts_them(pair, kinds):
    plain, _ = both(pair, arguments := inputs(3))
    core, ours = both(pair, arguments, make_control=lambda: {k: v for k, v in control(3).items() if k in kinds})
    assert relative(core, plain) > 0.01
    assert relative(ours, core) < TOLERANCE


def test_control_is_not_consumed(pair):
    given = control(3)
    arguments = inputs(3)
    first = pair[1](**arguments, control=given, transformer_options=options())
    assert torch.equal(first, pair[1](**arguments, control=given, transformer_options=options()))
    assert len(given["output"]) == 12


def test_a_control_model_for_another_base_is_an_error(pair):
    given = control(3)
    given["output"][11] = torch.zeros(6, 1280, 1, 2)
    with pytest.raises(ValueError, match=r"output block 0 has shape \(6, 1280, 1, 2\).*another base model"):
        pair[1](**inputs(3), control=given, transformer_options=options())


class Recorder:
    """Patches for every place that ComfyUI knows; each notes where it was called and changes what it gets."""

    def __init__(self):
        self.calls = []

    def note(self, name, to):
        keys = "block block_index transformer_index activations_shape original_shape n_heads dim_head".split()
        self.calls.append((name, *(str(to.get(key)) for key in keys)))

    def block(self, name, factor):
        def patch(h, to):
            self.note(name, to)
            return h * factor

        return patch

    def output_block(self, h, hsp, to):
        self.note("output_block", to)
        h[:, : h.shape[1] // 2] *= 1.1
        return h, hsp * 0.9

    def attention(self, name):
        def patch(n, context, value, to):
            self.note(name, to)
            return n * 1.01, context * 0.98, value * 1.03

        return patch

    def replace(self, q, k, v, to):
        self.note("replace", to)
        return q + v.mean(dim=1, keepdim=True)

    def override(self, function, *args, **kwargs):
        self.calls.append(("override", tuple(args[0].shape), tuple(args[1].shape)))
        return function(*args, **kwargs) * 1.02

    def patches(self):
        return {
            "input_block_patch": [self.block("input", 1.02)],
            "input_block_patch_after_skip": [self.block("after_skip", 0.97)],
            "output_block_patch": [self.output_block],
            "attn1_patch": [self.attention("attn1")],
            "attn2_patch": [self.attention("attn2")],
            "attn1_output_patch": [self.block("attn1_output", 0.99)],
            "attn2_output_patch": [self.block("attn2_output", 1.04)],
            "middle_patch": [self.block("middle", 1.01)],
        }

    def replacements(self):
        return {
            "attn1": {("input", 2): self.replace, ("middle", 0, 0): self.replace},
            "attn2": {("output", 5, 0): self.replace, ("output", 5): None},
        }


def patched(pair, **extra):
    """Each UNet under a recorder of its own, with those of its patches that `extra` selects."""
    arguments, results = inputs(2), []
    for unet in pair:
        recorder = Recorder()
        chosen = {key: make(recorder) for key, make in extra.items()}
        results.append((unet(**arguments, transformer_options=options(**chosen)), recorder.calls))
    plain = pair[0](**arguments, transformer_options=options())
    return plain, *results


PATCHES = [*Recorder().patches()]


@pytest.mark.parametrize("name", PATCHES)
def test_each_patch_acts_as_in_comfyui(pair, name):
    plain, (core, core_calls), (ours, our_calls) = patched(pair, patches=lambda r: {name: r.patches()[name]})
    assert relative(core, plain) > 1e-3
    assert relative(ours, core) < TOLERANCE
    assert our_calls == core_calls


def test_all_patches_and_replacements_together_act_as_in_comfyui(pair):
    plain, (core, core_calls), (ours, our_calls) = patched(
        pair,
        patches=Recorder.patches,
        patches_replace=Recorder.replacements,
        optimized_attention_override=lambda r: r.override,
    )
    assert {call[0] for call in core_calls} >= {"replace", "override", "output_block", "attn1", "attn2_output"}
    assert relative(core, plain) > 0.05
    assert relative(ours, core) < TOLERANCE
    assert our_calls == core_calls


def test_attention_override_alone_acts_as_in_comfyui(pair):
    plain, (core, core_calls), (ours, our_calls) = patched(pair, optimized_attention_override=lambda r: r.override)
    assert relative(ours, core) < TOLERANCE < relative(core, plain)
    assert our_calls == core_calls


def test_wrappers_around_the_diffusion_model_run(pair):
    import comfy.patcher_extension

    def wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs) * 2

    arguments = inputs(2)
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrapped = pair[1](**arguments, transformer_options=options(wrappers={kind: {"test": [wrapper]}}))
    assert torch.equal(wrapped, pair[1](**arguments, transformer_options=options()) * 2)


def test_skip_joined_by_a_patch_itself(pair):
    arguments = inputs(2)

    def join(h, hsp, to):
        return torch.cat([h, hsp], dim=1), None

    joined = pair[1](**arguments, transformer_options=options(patches={"output_block_patch": [join]}))
    assert torch.equal(joined, pair[1](**arguments, transformer_options=options()))


def test_animation_is_published_for_other_packs(pair):
    seen = {}

    def look(h, to):
        seen.update(to["ad_params"])
        return h

    pair[1](**inputs(3), transformer_options=options(patches={"input_block_patch": [look]}))
    assert seen == {"full_length": 3, "context_length": 3, "sub_idxs": None}


def test_text_of_another_width_is_named(pair):
    arguments = {**inputs(2), "context": torch.randn(4, 7, 64)}
    with pytest.raises(ValueError, match="text of width 64, but the model reads width 768"):
        pair[1](**arguments, transformer_options=options())


def test_a_layer_that_latent_diffusion_has_not_has_its_own_name():
    """A distilled UNet's projection of the guidance."""
    config = pack_config(time_cond_proj_dim=7)
    view = LDMView(bare_unet(config), torch.float32)
    extra = {name: tuple(value.shape) for name, value in view.state_dict().items() if name.startswith("extra.")}
    width = config.block_out_channels[0]
    assert extra == {"extra.time_embedding.cond_proj.weight": (width, 7)}
    assert view.get_submodule("extra.time_embedding.cond_proj") is view.core.time_embedding.cond_proj
    plain = LDMView(bare_unet(pack_config()), torch.float32)
    assert not any(name.startswith("extra") for name in plain.state_dict())


def pack_config(**changes):
    return UNetMotionConfig(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, cross_attention_dim=12, num_attention_heads=2,
        motion_num_attention_heads=2, **changes,
    )  # fmt: skip
