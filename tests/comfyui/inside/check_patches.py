"""What nodes of ComfyUI and of other packs set on a MODEL acts on ours as on ComfyUI's own MODEL."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.ldm.modules.attention as comfy_attention
import comfy.patcher_extension as extension
import pytest
import torch
from comfy_extras import (
    nodes_freelunch,
    nodes_hypertile,
    nodes_model_advanced,
    nodes_model_downscale,
    nodes_pag,
    nodes_perpneg,
    nodes_sag,
    nodes_tomesd,
)
from pack.nodes.host.step.hooks import ComfyHooks
from sampled import execute, models, noise, sample, text
from small import relative

# Guidance multiplies rounding errors.
TOLERANCE = 2e-4
# To sizes that halving and doubling do not give back.
DEEP_SHRINK = (3, 1.6, 0.0, 0.9)
LARGE = noise(2, size=(16, 16))

NODES = {
    "FreeU": (nodes_freelunch.FreeU, 1.5, 1.6, 0.9, 0.2),
    "FreeU_V2": (nodes_freelunch.FreeU_V2, 1.5, 1.6, 0.9, 0.2),
    "PerturbedAttentionGuidance": (nodes_pag.PerturbedAttentionGuidance, 3.0),
    "SelfAttentionGuidance": (nodes_sag.SelfAttentionGuidance, 0.8, 2.0),
    "PerpNeg": (nodes_perpneg.PerpNeg, text(9), 0.8),
    "RescaleCFG": (nodes_model_advanced.RescaleCFG, 0.7),
    "HyperTile": (nodes_hypertile.HyperTile, 32, 1, 0, False),
    "DeepShrink after the skip": (nodes_model_downscale.PatchModelAddDownscale, *DEEP_SHRINK, True, "area", "bislerp"),
    "DeepShrink before it": (nodes_model_downscale.PatchModelAddDownscale, *DEEP_SHRINK, False, "bicubic", "bilinear"),
    "TomePatchModel": (nodes_tomesd.TomePatchModel, 0.4),
}


@pytest.fixture(scope="module")
def pair():
    return models()


@pytest.fixture(scope="module")
def moving():
    return models(active=True)[1]


@pytest.fixture(scope="module")
def plain(pair, moving):
    return [sample(model) for model in (*pair, moving)]


@pytest.fixture(scope="module")
def large_plain(pair, moving):
    return [sample(model, start=LARGE) for model in (*pair, moving)]


def acts_alike(pair, moving, plain, patch, **run):
    """A patch does to ours what it does to ComfyUI's MODEL, and changes a moving one too."""
    core, ours = (sample(patch(model), **run) for model in pair)
    assert relative(core, plain[0]) > 1e-3
    assert relative(ours, core) < TOLERANCE
    assert relative(sample(patch(moving), **run), plain[2]) > 1e-3


@pytest.mark.parametrize("name", NODES)
def test_core_nodes_act_as_on_comfyuis_model(pair, moving, large_plain, name):
    node, *arguments = NODES[name]
    acts_alike(pair, moving, large_plain, lambda model: execute(node, model, *arguments), start=LARGE)


def scaled(factor):
    return lambda h, options: h * factor


def skip_too(h, skip, options):
    return h * 1.1, skip * 0.8


def attention(n, context, value, options):
    return n * 1.1, context * 0.9, value * 1.2


def replaced(q, k, v, options):
    assert options["n_heads"] * options["dim_head"] == q.shape[-1]
    return q * 0.5 + v.mean(dim=1, keepdim=True)


def embedding(emb, channels, options):
    assert channels == 32
    return emb + torch.linspace(-1, 1, emb.shape[-1])


def after_middle(seen):
    assert seen["emb"].shape == (seen["x"].shape[0], 128) and seen["h"].shape[1] == 128
    return {"h": seen["h"] * 1.5 + seen["emb"][:, :, None, None]}


def overriding(function, *arguments, **named):
    return function(*arguments, **named) * 1.3


PATCHES = {
    "input block": lambda m: m.set_model_input_block_patch(scaled(1.2)),
    "input block after skip": lambda m: m.set_model_input_block_patch_after_skip(scaled(1.2)),
    "output block": lambda m: m.set_model_output_block_patch(skip_too),
    "middle after": lambda m: m.set_model_patch(after_middle, "middle_block_after_patch"),
    "between attentions": lambda m: m.set_model_patch(scaled(1.2), "middle_patch"),
    "attn1": lambda m: m.set_model_attn1_patch(attention),
    "attn2": lambda m: m.set_model_attn2_patch(attention),
    "attn1 output": lambda m: m.set_model_attn1_output_patch(scaled(1.4)),
    "attn2 output": lambda m: m.set_model_attn2_output_patch(scaled(1.4)),
    "attn1 replace": lambda m: m.set_model_attn1_replace(replaced, "input", 4),
    "attn2 replace of one block": lambda m: m.set_model_attn2_replace(replaced, "output", 5, 0),
    "attn2 replace in the middle": lambda m: m.set_model_attn2_replace(replaced, "middle", 0),
    "time embedding": lambda m: m.set_model_emb_patch(embedding),
    "attention override": lambda m: m.model_options["transformer_options"].update(
        optimized_attention_override=overriding
    ),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches_of_the_unet_act_as_on_comfyuis_model(pair, moving, plain, name):
    # Added to core after 0.3.64.
    if name == "middle after" and not hasattr(pair[0], "set_model_middle_block_after_patch"):
        pytest.skip("this ComfyUI has no patch after the middle block")

    def patch(model):
        PATCHES[name](clone := model.clone())
        return clone

    acts_alike(pair, moving, plain, patch)


def whole_batch(apply, given):
    out = apply(given["input"] * 0.9, given["timestep"], **given["c"])
    return out * (1 + torch.tensor(given["cond_or_uncond"]).repeat_interleave(3)[:, None, None, None])


def one_cond_at_a_time(apply, given):
    """Halves the batch, as packs do that save memory."""
    conds, outs = len(given["cond_or_uncond"]), []
    for index, (x, t) in enumerate(zip(given["input"].chunk(conds), given["timestep"].chunk(conds), strict=True)):
        options = {**given["c"]["transformer_options"], "cond_or_uncond": [given["cond_or_uncond"][index]]}
        text_of_it = given["c"]["c_crossattn"].chunk(conds)[index]
        outs.append(apply(x, t, c_crossattn=text_of_it, transformer_options=options))
    return torch.cat(outs) * 1.1


def conds_function(args):
    import comfy.samplers

    outs = comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )
    return [out * 1.1 for out in outs]


SAMPLING = {
    "model function wrapper": lambda m: m.set_model_unet_function_wrapper(whole_batch),
    "model function wrapper, cond by cond": lambda m: m.set_model_unet_function_wrapper(one_cond_at_a_time),
    "pre-CFG": lambda m: m.set_model_sampler_pre_cfg_function(lambda args: [c * 1.1 for c in args["conds_out"]]),
    "post-CFG": lambda m: m.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] + 0.3 * args["uncond_denoised"]
    ),
    "CFG": lambda m: m.set_model_sampler_cfg_function(lambda args: args["uncond"] + 1.5 * args["cond"]),
    "conds": lambda m: m.set_model_sampler_calc_cond_batch_function(conds_function),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_functions_of_the_sampling_act_as_on_comfyuis_model(pair, moving, plain, name):
    def patch(model):
        SAMPLING[name](clone := model.clone())
        return clone

    acts_alike(pair, moving, plain, patch)


def test_a_function_of_the_noise_mask_acts_as_on_comfyuis_model(pair):
    mask = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)

    def run(model, patch):
        clone = model.clone()
        if patch:
            clone.set_model_denoise_mask_function(lambda sigma, mask, extra_options: (mask > 0.5).float())
        return sample(clone, noise_mask=mask, steps=2)

    core, ours = (run(model, True) for model in pair)
    assert relative(ours, core) < TOLERANCE < 1e-2 < relative(ours, run(pair[1], False))


KINDS = [value for name, value in vars(extension.WrappersMP).items() if name.isupper()]
NUMERIC = {"outer_sample", "sampler_sample", "predict_noise", "apply_model", "diffusion_model"}


@pytest.mark.parametrize("kind", KINDS)
def test_wrappers_of_every_kind_act_as_on_comfyuis_model(pair, moving, plain, kind):
    calls = []

    def wrapper(executor, *arguments, **named):
        calls.append(kind)
        out = executor(*arguments, **named)
        if kind == "calc_cond_batch":
            return [cond * 1.1 for cond in out]
        return out * 1.1 if kind in NUMERIC else out

    def patch(model):
        clone = model.clone()
        clone.add_wrapper_with_key(kind, "check", wrapper)
        return clone

    results, counts = [], []
    for model in pair:
        calls.clear()
        results.append(sample(patch(model)))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
    assert relative(results[1], results[0]) < TOLERANCE
    if kind in NUMERIC or kind == "calc_cond_batch":
        assert relative(results[0], plain[0]) > 1e-2
        assert relative(sample(patch(moving)), plain[2]) > 1e-2


@pytest.mark.parametrize("kind", ["ON_PRE_RUN", "ON_PREPARE_STATE", "ON_CLEANUP"])
def test_callbacks_of_a_run_come_as_often_as_on_comfyuis_model(pair, kind):
    def run(model):
        calls = []
        clone = model.clone()
        clone.add_callback(getattr(extension.CallbacksMP, kind), lambda *_, **__: calls.append(kind) or {})
        sample(clone)
        return len(calls)

    counts = [run(model) for model in pair]
    assert counts[0] == counts[1] > 0


def test_a_replaced_attention_sees_each_frame_as_ip_adapter_packs_expect(pair, plain):
    """Image tokens per frame, for the cond only; the reference runs ComfyUI's MODEL on one frame at a time."""
    from comfy.ldm.modules.attention import optimized_attention

    tokens = torch.randn(3, 4, 128, generator=torch.Generator().manual_seed(4))

    def patched(model, rows):
        def ip_attention(q, k, v, options):
            out = optimized_attention(q, k, v, options["n_heads"])
            per_cond = q.shape[0] // len(options["cond_or_uncond"])
            assert per_cond == len(rows) and options["original_shape"][0] == q.shape[0]
            for place, kind in enumerate(options["cond_or_uncond"]):
                if kind == 0:
                    part = slice(place * per_cond, (place + 1) * per_cond)
                    images = tokens[rows]
                    out[part] += 2 * optimized_attention(q[part], images, images, options["n_heads"])
            return out

        clone = model.clone()
        clone.set_model_attn2_replace(ip_attention, "middle", 0)
        return clone

    together = sample(patched(pair[1], [0, 1, 2]))
    assert relative(together, plain[1]) > 1e-3
    for row in range(3):
        alone = sample(patched(pair[0], [row]), start=noise()[row : row + 1])
        assert relative(together[row : row + 1], alone) < TOLERANCE


def test_after_all_these_the_given_models_are_as_they_were(pair, moving, plain, large_plain):
    for model, small, large in zip((*pair, moving), plain, large_plain, strict=True):
        assert torch.equal(sample(model), small) and torch.equal(sample(model, start=LARGE), large)


@pytest.mark.parametrize("masked", [False, True])
def test_spatial_attention_is_comfyuis_with_the_mask_where_there_is_one(masked, monkeypatch):
    called = []
    for name in ("optimized_attention", "optimized_attention_masked"):
        run = getattr(comfy_attention, name)
        monkeypatch.setattr(
            comfy_attention, name, lambda *a, name=name, run=run, **k: called.append(name) or run(*a, **k)
        )
    heads, dim = 2, 8
    query, key, value = (torch.randn(3, length, heads * dim) for length in (5, 7, 7))
    mask = torch.where(torch.rand(3, 1, 5, 7) < 0.5, 0.0, -1.5) if masked else None
    chosen = SimpleNamespace(core_attention=False, options={})
    found = ComfyHooks.attention(chosen, query, key, value, heads, mask)
    q, k, v = (t.double().unflatten(-1, (heads, dim)) for t in (query, key, value))
    scores = torch.einsum("blhd,bshd->bhls", q, k) * dim**-0.5 + (0 if mask is None else mask.double())
    expected = torch.einsum("bhls,bshd->blhd", scores.softmax(-1), v).flatten(2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert called == ["optimized_attention_masked" if masked else "optimized_attention"]
    chosen.core_attention = True
    assert ComfyHooks.attention(chosen, query, key, value, heads, mask) is None
