"""Core's nodes that say what the UNet predicts, and torch.compile, on our MODEL."""

from __future__ import annotations

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import pytest
import torch
from check_bundled import PROMPT, denoise
from check_saving import sampled
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.options import AttentionProcessor, FreeU
from pack.unet_motion.bundled import added_vector
from pack.unet_motion.ops.conv import cpu as convolution
from safetensors.torch import save_file
from small import options, relative

FRAMES = 3


@pytest.fixture(scope="module")
def loaded():
    return load_bundled_models()


def prediction(loaded, model, sigma, timestep):
    """What a MODEL takes for the clean latents of x; x and the raw output of its UNet, called by hand."""
    clip = loaded[1]
    cond, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    sigma = torch.full((FRAMES,), float(sigma))
    x = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(4)) * sigma[0]
    comfy.model_management.load_models_gpu([model])
    clean = denoise(model, cond, pooled, x, sigma, FRAMES)
    raw = model.model.diffusion_model(
        x / (sigma[0] ** 2 + 1).sqrt(), torch.full((FRAMES,), float(timestep)), cond.repeat(FRAMES, 1, 1),
        y=added_vector(pooled).repeat(FRAMES, 1), transformer_options=options(1),
    )  # fmt: skip
    comfy.model_management.unload_all_models()
    return clean, x, raw


def closed_form(kind, x, raw, sigma):
    if kind == "x0":
        return raw
    if kind == "eps":
        return x - sigma * raw
    return x / (sigma**2 + 1) - raw * sigma / (sigma**2 + 1) ** 0.5


def zero_terminal(sigmas):
    """Lin et al. 2023, algorithm 1; core puts a number that float32 can invert for the last, infinite sigma."""
    root = (1 / (sigmas.double() ** 2 + 1)).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return ((1 - root**2) / root**2).sqrt()


@pytest.mark.parametrize("zsnr", [False, True])
@pytest.mark.parametrize("kind", ["eps", "v_prediction", "x0"])
def test_discrete_sampling_reads_the_unets_output_as_it_says(loaded, kind, zsnr):
    base = loaded[0]
    model = ModelSamplingDiscrete().patch(base, kind, zsnr)[0]
    plain, ours = (item.get_model_object("model_sampling").sigmas for item in (base, model))
    expected = zero_terminal(plain) if zsnr else plain.double()
    assert torch.allclose(ours[:-1].double(), expected[:-1], rtol=1e-3)
    assert (float(ours[-1]) > 4000) == zsnr
    for timestep in (100, 700):
        sigma = float(ours[timestep])
        clean, x, raw = prediction(loaded, model, sigma, timestep)
        assert relative(clean, closed_form(kind, x, raw, sigma)) < 1e-4
        others = {"eps", "v_prediction", "x0"} - {kind}
        assert all(relative(clean, closed_form(other, x, raw, sigma)) > 1e-2 for other in others)
    # The branch without the node is as it was.
    assert base.get_model_object("model_sampling") is base.model.model_sampling


@pytest.mark.parametrize("kind", ["eps", "v_prediction"])
def test_continuous_sampling_gives_the_unet_a_quarter_of_the_logarithm(loaded, kind):
    model = ModelSamplingContinuousEDM().patch(loaded[0], kind, 120.0, 0.002)[0]
    sigma = torch.tensor(2.0)
    clean, x, raw = prediction(loaded, model, sigma, 0.25 * sigma.log())
    assert relative(clean, closed_form(kind, x, raw, 2.0)) < 1e-4
    plain = prediction(loaded, loaded[0], 2.0, 0)[0]
    assert relative(clean, plain) > 1e-2


@pytest.fixture
def compiled(loaded, monkeypatch):
    """Compiles a MODEL as core's node does, and counts the graphs."""
    # ComfyUI's attention for the CPU asks the system for free memory, which is no part of a graph.
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy_attention, name, comfy_attention.attention_pytorch)
    # Nor are products in place of convolutions: an eager model rounds as a compiled one does without them.
    monkeypatch.setattr(convolution, "FEW_PIXELS", 0)
    torch.compiler.reset()
    graphs = []

    def backend(graph, _, **__):
        graphs.append(graph)
        return graph.forward

    def compile_model(model):
        clone = model.clone()
        skip = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
        set_torch_compile_wrapper(model=clone, backend=backend, options=skip, fullgraph=True)
        return clone, graphs

    yield compile_model
    torch.compiler.reset()


def words(loaded):
    return loaded[1].encode_from_tokens_scheduled(loaded[1].tokenize(PROMPT))


def test_a_compiled_model_is_one_graph_and_gives_the_same_values(loaded, compiled):
    text = words(loaded)
    chosen = AttentionProcessor.execute(loaded[0], "auto", "sdpa")[0]
    plain = sampled(chosen, text)
    model, graphs = compiled(chosen)
    assert relative(sampled(model, text), plain) < 1e-5
    assert len(graphs) == 1
    assert torch.equal(sampled(chosen, text), plain)


# Off, then on; and on, then off: the graph is made in the first step.
@pytest.mark.parametrize(("version", "start", "end"), [("v1", 0.3, 1.0), ("v2", 0.0, 0.3)])
def test_freeu_in_a_range_is_part_of_the_one_graph_and_turns_there(loaded, compiled, version, start, end):
    text, base = words(loaded), loaded[0]

    def steps(model):
        seen = []
        start = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        comfy.sample.sample(
            model, start, 3, 2.0, "euler", "normal", text, text, torch.zeros_like(start), disable_pbar=True, seed=5,
            callback=lambda step, x0, x, total: seen.append(x0.clone()),
        )  # fmt: skip
        return seen

    def ranged(start, end):
        return FreeU.execute(base, True, "sd1.5", version, 1.0, 1.0, 1.0, 1.0, start, end)[0]

    plain, whole = steps(base), steps(ranged(0.0, 1.0))
    model, graphs = compiled(ranged(start, end))
    found, eager = steps(model), steps(ranged(start, end))
    assert len(graphs) == 1
    assert all(relative(a, b) < 1e-5 for a, b in zip(found, eager, strict=True))
    assert torch.equal(eager[0], (plain if start else whole)[0])
    assert relative(eager[0], (whole if start else plain)[0]) > 1e-3
    # The second step starts from what the first gave, and turns FreeU on or off.
    assert relative(eager[2], plain[2]) > 1e-2 and relative(eager[2], whole[2]) > 1e-2


def test_branches_of_one_compiled_model_keep_their_own_settings(loaded, compiled):
    text, base = words(loaded), loaded[0]
    root, graphs = compiled(base)
    branches = {
        "none": lambda model: model,
        "freeu": lambda model: FreeU.execute(model, True, "sd1.5", "v1", 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)[0],
        "stronger": lambda model: FreeU.execute(model, True, "custom", "v1", 1.9, 1.9, 0.5, 0.5, 0.0, 1.0)[0],
    }
    results = {name: sampled(branch(root), text) for name, branch in branches.items()}
    for name, branch in branches.items():
        assert relative(results[name], sampled(branch(base), text)) < 1e-5
        assert torch.equal(sampled(branch(root), text), results[name])
    assert len(graphs) == 3


def test_a_motion_lora_that_varies_is_part_of_the_one_graph(loaded, compiled, tmp_path):
    """Steps, frames, windows and other curves are data; the graph is made in the first step."""
    text, base, file = words(loaded), loaded[0], tmp_path / "pan.safetensors"
    path = next(p for p, _ in base.model.diffusion_model.core.named_modules() if p.endswith("motion_modules.0.proj_in"))
    rows, columns = base.model.diffusion_model.core.get_submodule(path).weight.shape
    save_file({f"{path}.lora_A.weight": torch.randn(2, columns), f"{path}.lora_B.weight": torch.randn(rows, 2)}, file)

    def curves(model, steps, frames, strength=1.0):
        return load_motion_lora(model, str(file), strength, steps, frames)

    def windows(model):
        # As core's context windows do before every call.
        model = model.clone()

        def wrapper(executor, x, t, *rest, **named):
            rest = list(rest)
            rest[3] = {**rest[3], "ad_params": {"sub_idxs": [5, 6, 7], "full_length": 8}}
            return executor(x, t, *rest, **named)

        # Before the wrapper that hands over the settings.
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        model.wrappers[kind] = {"window": [wrapper], **model.wrappers[kind]}
        return model

    root, graphs = compiled(base)
    cases = [("0:0, 1:1", "0:0, 2:1", 1.0), ("0:1, 1:0", "0:1, 6:0", -0.5)]
    results = []
    for case in cases:
        for made in (lambda model: model, windows):
            eager = sampled(made(curves(base, *case)), text)
            assert relative(sampled(made(curves(root, *case)), text), eager) < 1e-5
            results.append(eager)
    assert len(graphs) == 1
    assert all(relative(a, b) > 1e-3 for i, a in enumerate(results) for b in results[:i])
    assert relative(sampled(root, text), sampled(base, text)) < 1e-5


def test_a_compiled_model_takes_a_batch_of_one_cond_for_one_clip_and_of_two_for_two(loaded, compiled):
    text, base = words(loaded), loaded[0]
    model, graphs = compiled(base)

    def run(model, frames, cfg):
        start = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        return comfy.sample.sample(
            model, start, 1, cfg, "euler", "normal", text, text, torch.zeros_like(start), disable_pbar=True, seed=5
        )

    # Eight frames in the batch each time.
    for frames, cfg in ((4, 2.0), (8, 1.0), (4, 2.0)):
        assert relative(run(model, frames, cfg), run(base, frames, cfg)) < 1e-5
    assert relative(run(base, 8, 1.0)[:4], run(base, 4, 1.0)) > 1e-3
    assert len(graphs) == 2
