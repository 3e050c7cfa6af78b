"""Converted graphs beside AnimateDiff-Evolved itself: both run on the same small weights, and draw the same latents.

Run with UNET_MOTION_PACKS naming a folder with the pack's checkout. The graphs are those of
`evolved_graphs.py`.
"""

from __future__ import annotations

import sys

import comfy.model_management
import folder_paths
import pytest
import torch
from evolved_graphs import CASES, I2V, LCM, LORAS, OF_V1, PIA, PLAIN, SQRT, V1, V2, V3, Graph
from pack.nodes.host.step.image_injection import _Run
from pack.unet_motion.sampling import FreeInit
from pack.unet_motion.workflows.importer import convert_workflow
from pack.unet_motion.workflows.importer.table import is_old
from pack.unet_motion.workflows.importer.table.over_time import MIXED_AGAIN
from pack.unet_motion.workflows.importer.table.pictures import LATER
from pack.unet_motion.workflows.importer.table.values import NORMS
from peer import EVOLVED, FOLDER, Clip, Vae, load_other_pack, narrow, run, write_lora, write_module
from safetensors.torch import load_file
from small import relative, sd15

pytestmark = pytest.mark.skipif(not FOLDER, reason="UNET_MOTION_PACKS names no folder with other packs")
TOLERANCE = 1e-3
SEEN = 1e-2  # what the nodes of a case change at least
MODULES = {
    V2: {"positions": 32},
    V3: {"positions": 32, "use_motion_mid_block": False},
    V1: {"positions": 24, "use_motion_mid_block": False},
    LCM: {"positions": 0, "motion_max_seq_length": 64},
    PIA: {"positions": 32, "use_motion_mid_block": False, "conv_in_channels": 9},
    I2V: {"positions": 0, "use_image_encoder": True, "motion_max_seq_length": 64},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Gives the pack and ours the same files, and the pack the widths of the small models."""
    load_other_pack(EVOLVED)
    folder = tmp_path_factory.mktemp("motion")
    for name, config in MODULES.items():
        write_module(folder / name, **config)
    for name in LORAS:
        write_lora(folder / name, load_file(folder / V2))
    for kind in ("animatediff_models", "animatediff_motion_lora"):
        folder_paths.add_model_folder_path(kind, str(folder))
        folder_paths.filename_list_cache.pop(kind, None)
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        yield folder


def latents(prompt, key, base):
    """What the sampler of a graph makes."""
    torch.manual_seed(0)
    # It holds on to models that are gone, which core's next loading stumbles on.
    comfy.model_management.unload_all_models()
    out = run(prompt, key, {"CheckpointLoaderSimple": (base.clone(), Clip(), Vae())})
    return out[0]["samples"]


def both(function, base):
    """Latents of a case as AnimateDiff-Evolved draws them and as its conversion does, and the report."""
    graph = Graph()
    function(graph)
    prompt, key = graph.prompt()
    converted = convert_workflow(prompt)
    assert converted.report.is_whole and not any(is_old(node["class_type"]) for node in converted.graph.values())
    theirs, ours = latents(prompt, key, base), latents(converted.graph, key, base)
    print(f"\n= {function.__name__}: {relative(ours, theirs):.2e}")
    return theirs, ours, converted.report


@pytest.fixture(scope="module")
def base():
    return sd15()


@pytest.fixture(scope="module")
def still(weights, base):
    """The same run without motion modules."""
    prompt, key = Graph().prompt()
    return latents(prompt, key, base)


@pytest.mark.parametrize("name", CASES)
def test_the_converted_graph_draws_what_animatediff_evolved_draws(weights, base, still, name):
    theirs, ours, report = both(CASES[name], base)
    assert not report.changed and relative(ours, theirs) < TOLERANCE
    assert ours.shape != still.shape or relative(ours, still) > SEEN


@pytest.mark.parametrize("name", OF_V1)
def test_norms_over_all_frames_where_they_were_trained(weights, base, monkeypatch, name):
    """The report names the defect, and without it both draw the same."""
    theirs, ours, report = both(OF_V1[name], base)
    assert NORMS in [said.text for said in report.notes] and not report.changed
    assert relative(ours, theirs) > TOLERANCE
    as_trained(monkeypatch, base.model.diffusion_model)
    theirs, ours, _ = both(OF_V1[name], base)
    assert relative(ours, theirs) < TOLERANCE


def as_trained(monkeypatch, unet):
    """Let the pack take norms over all frames in the layers alone that v1 was trained so."""
    sampling = sys.modules["ComfyUI_AnimateDiff_Evolved.animatediff.sampling"]
    made = sampling.groupnorm_mm_factory
    trained = {id(module) for name, module in unet.named_modules() if name.endswith(("_layers.0", "out.0"))}

    def factory(*arguments, **named):
        over_all = made(*arguments, **named)

        def forward(self, x):
            if id(self) in trained:
                return over_all(self, x)
            return torch.nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

        return forward

    monkeypatch.setattr(sampling, "groupnorm_mm_factory", factory)


def test_a_range_of_steps_between_keys_of_prompts_is_mixed_from_the_keys(weights, base):
    """AnimateDiff-Evolved mixes each frame from its mix for the frame before; the report says so."""

    def between(g):
        text = '0 = "a red star",\n7 = "a blue star"'
        g.sampler["positive"] = g.add("ADE_PromptScheduling", prompts=text, clip=["1", 1], print_schedule=False,
                                      max_length=8, tensor_interp="lerp")  # fmt: skip
        g.gen2()

    theirs, ours, report = both(between, base)
    apart = [relative(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert MIXED_AGAIN in [said.text for said in report.notes] and max(apart) > TOLERANCE


def test_free_init_mixes_the_same_with_the_same_fresh_noise(weights, base, monkeypatch):
    """The report says that fresh noise has other seeds here; with theirs, both draw the same."""

    def again(g):
        options = g.add("ADE_IterationOptsFreeInit", iterations=2, filter="gaussian", d_s=0.25, d_t=0.25,
                        n_butterworth=4, sigma_step=999, apply_to_1st_iter=False,
                        init_type="FreeInit [sampler sigma]")  # fmt: skip
        g.gen2(sample_settings=g.settings(iteration_opts=options))

    theirs, ours, report = both(again, base)
    assert ["other seeds" in said.text for said in report.changed] == [True] and relative(ours, theirs) > SEEN
    monkeypatch.setattr(FreeInit, "seed", lambda self, iteration, seed: seed + iteration)
    theirs, ours, _ = both(again, base)
    assert relative(ours, theirs) < TOLERANCE


def two_models(g):
    """One in the first part of the run, the other in the rest."""
    first, second = (g.add("ADE_LoadAnimateDiffModel", model_name=name) for name in (V2, V3))
    before = g.add("ADE_ApplyAnimateDiffModel", motion_model=first, start_percent=0.0, end_percent=0.5,
                   effect_multival=g.multival(0.7))  # fmt: skip
    g.use(g.add("ADE_ApplyAnimateDiffModel", motion_model=second, prev_m_models=before, start_percent=0.5,
                end_percent=1.0, scale_multival=g.multival(1.2)), PLAIN)  # fmt: skip
    g.sampler["steps"] = 4


def test_two_motion_models_one_after_the_other_in_time(weights, base, still):
    """Where both act they do so beside each other, which the report says; in parts of the run it is all the same."""
    theirs, ours, report = both(two_models, base)
    assert ["beside that of node" in said.text for said in report.changed] == [True]
    assert relative(ours, theirs) < TOLERANCE and relative(ours, still) > SEEN


def with_pictures(g):
    first = g.add("ADE_NoisedImageInjection", image=g.picture(), vae=["1", 2], invert_mask=True, resize_image=True,
                  mask_opt=g.mask(0.25), start_percent=0.0, strength_multival=g.multival(0.7))  # fmt: skip
    small = g.add("EmptyImage", width=24, height=32, batch_size=1, color=0x20E0A0)
    second = g.add("ADE_NoisedImageInjection", image=small, vae=["1", 2], invert_mask=False, resize_image=False,
                   start_percent=0.5, prev_image_inject=first)  # fmt: skip
    g.gen2(sample_settings=g.settings(image_inject=second))
    g.sampler["steps"] = 4


def test_pictures_are_laid_into_the_clip_of_the_step_before(weights, base, monkeypatch):
    """The report says that it is the clip of that step here; with the clip of the step before, both draw the same."""
    theirs, ours, report = both(with_pictures, base)
    assert {said.text for said in report.changed} == {LATER} and len(report.changed) == 2
    assert TOLERANCE < relative(ours, theirs)
    monkeypatch.setattr(_Run, "in_two_parts", of_the_step_before)
    theirs, ours, _ = both(with_pictures, base)
    plain = Graph()
    plain.gen2()
    plain.sampler["steps"] = 4
    prompt, key = plain.prompt()
    # The latents of random weights are so large that pictures are a small part of them.
    assert relative(ours, theirs) < 1e-5 < TOLERANCE < relative(ours, latents(prompt, key, base))


def of_the_step_before(self, sampler, sigma):
    """As `_Run.in_two_parts`, with the clip that the callback of the step before got."""

    def function(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        known = {"extra_args": extra_args, "disable": disable, **options}
        k = next((i for i, one in enumerate(sigmas[:-1]) if one == sigma), None)
        if k is None:
            return sampler(model, x, sigmas, callback=callback, **known)
        seen = []
        x = sampler(model, x, sigmas[: k + 1], callback=lambda state: seen.append(state["denoised"]), **known)
        x = x + self._injected(seen[-1]) - seen[-1]
        return sampler(model, x, sigmas[k:], callback=callback, **known)

    return function


def test_a_loader_that_animatediff_evolved_does_not_run_any_more_runs_here(weights, base):
    graph = Graph()
    graph.frames(12)
    graph.model = graph.add(
        "ADE_AnimateDiffLoaderV1Advanced", model=graph.model, latents=graph.sampler["latent_image"], model_name=V3,
        unlimited_area_hack=False, context_length=8, context_stride=1, context_overlap=2, context_schedule="uniform",
        closed_loop=False, beta_schedule=SQRT,
    )  # fmt: skip
    prompt, key = graph.prompt()
    converted = convert_workflow(prompt)
    with pytest.raises(ValueError, match="Unknown context_schedule"):
        latents(prompt, key, base)
    assert len(converted.report.notes) == 1 and latents(converted.graph, key, base).isfinite().all()
