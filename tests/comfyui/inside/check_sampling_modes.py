"""Core's nodes that say what the UNet predicts, and torch.compile, on our MODEL."""

from __future__ import annotations

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import pytest
import torch
from check_bundled import PROMPT, denoise
from check_saving import sampled
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from pack.nodes.host.bundled import load_bundled_models
from pack.nodes.options import AttentionProcessor
from pack.unet_motion.bundled import added_vector
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


def test_a_compiled_model_is_one_graph_and_gives_the_same_values(loaded, monkeypatch):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    # ComfyUI's attention for the CPU asks the system for free memory, which is no part of a graph.
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy_attention, name, comfy_attention.attention_pytorch)
    model, clip, _ = loaded
    text = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    chosen = AttentionProcessor.execute(model, "auto", "sdpa")[0]
    plain = sampled(chosen, text)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = chosen.clone()
    torch._dynamo.reset()
    set_torch_compile_wrapper(model=compiled, backend=backend, fullgraph=True)
    out = sampled(compiled, text)
    torch._dynamo.reset()
    assert len(graphs) == 1
    assert relative(out, plain) < 1e-5
    assert torch.equal(sampled(chosen, text), plain)
