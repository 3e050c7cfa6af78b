"""Image prompts (IP-Adapter): against diffusers, per frame against a restatement on top of diffusers, masks, saving."""

import functools

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from tests.reference import (
    SD15,
    SDXL,
    TINY,
    TheirModel,
    UNetMotionModel,
    assert_close,
    assert_differs,
    clip_of_rows,
    make_inputs,
    pair,
    randomise,
    rows_of_frames,
    run_ours,
    run_theirs,
)
from unet_motion import ForwardOptions
from unet_motion.model.ip_adapter import IPAdapterProcessor
from unet_motion.ops.attention.processors import PROCESSORS, available_processors

IMAGE_DIM, TOKENS = 6, 4
CONFIGS = {"sd15": SD15, "sdxl": SDXL, "tiny": TINY, "no mid": {**SD15, "use_motion_mid_block": False}}


def ip_state(theirs, seed):
    """A random file in the published form, fitting this model: layers 1, 3, 5, ... of the cross-attentions."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    text_width = theirs.config.cross_attention_dim
    layers = {}
    crossing = [path for path in theirs.attn_processors if ".attentions." in path and path.endswith("attn2.processor")]
    for i, path in enumerate(crossing):
        inner = theirs.get_submodule(path.removesuffix(".processor")).to_q.out_features
        for name in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * i + 1}.{name}.weight"] = randn(inner, text_width)
    projection = {
        "proj.weight": randn(TOKENS * text_width, IMAGE_DIM),
        "proj.bias": randn(TOKENS * text_width),
        "norm.weight": 1 + randn(text_width),
        "norm.bias": randn(text_width),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def ip_pair(config, adapters=1, scale=None):
    ours, theirs = pair(config)
    states = [ip_state(theirs, seed) for seed in range(adapters)]
    theirs._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
    ours.load_ip_adapter(states)
    if scale is not None:
        set_their_scale(theirs, scale)
        ours.set_ip_adapter_scale(scale)
    return ours, theirs.eval()


@functools.lru_cache(maxsize=8)
def shared_ip_pair(name, adapters):
    """`ip_pair` of one of CONFIGS, built once: only for tests that change neither model."""
    return ip_pair(CONFIGS[name], adapters)


def set_their_scale(theirs, scale):
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = list(scale) if isinstance(scale, (list, tuple)) else [scale] * len(processor.to_k_ip)


def image_inputs(config, adapters=1, images=1, rows=None, batch=2, frames=3, **kwargs):
    inputs = make_inputs(config, batch=batch, frames=frames, **kwargs)
    embeds = [torch.randn(rows or batch, images, IMAGE_DIM) for _ in range(adapters)]
    inputs["added_cond_kwargs"] = {**inputs.get("added_cond_kwargs", {}), "image_embeds": embeds}
    return inputs


def with_embeds(inputs, embeds):
    return {**inputs, "added_cond_kwargs": {**inputs["added_cond_kwargs"], "image_embeds": embeds}}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("adapters, images", [(1, 1), (2, 1), (1, 3)])
@torch.no_grad()
def test_images_equal_diffusers(name, adapters, images):
    ours, theirs = shared_ip_pair(name, adapters)
    inputs = image_inputs(CONFIGS[name], adapters, images, height=9, width=7)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    other = with_embeds(inputs, [e + 1 for e in inputs["added_cond_kwargs"]["image_embeds"]])
    assert_differs(result, run_ours(ours, other))


@pytest.mark.parametrize("scale", [0.0, 0.6, (0.3, 1.2), (0.0, 0.7)], ids=str)
@torch.no_grad()
def test_scale(scale):
    ours, theirs = ip_pair(SD15, adapters=2, scale=scale)
    inputs = image_inputs(SD15, adapters=2)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    if scale == 0.0:
        plain, _ = pair(SD15)
        assert_close(result, run_ours(plain, inputs))
    else:
        ours.set_ip_adapter_scale(1.0)
        assert_differs(result, run_ours(ours, inputs))


@torch.no_grad()
def test_one_tensor_stands_for_one_image():
    ours, theirs = shared_ip_pair("tiny", 1)
    inputs = image_inputs(TINY)
    embeds = inputs["added_cond_kwargs"]["image_embeds"][0]
    expected = run_theirs(theirs, inputs)
    assert_close(run_ours(ours, with_embeds(inputs, embeds[:, 0])), expected)
    assert_close(run_ours(ours, with_embeds(inputs, embeds)), expected)


def with_images_per_frame(theirs, embeds):
    """Give the cross-attentions of diffusers' model these tokens, one row per frame; returns how to undo it.

    diffusers repeats what it gets per clip; here the projection is applied to rows of frames and handed over behind
    that step.
    """
    tokens = theirs.encoder_hid_proj(embeds)

    def replace(module, args, kwargs):
        text, _ = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": (text, tokens)}

    handles = [
        module.register_forward_pre_hook(replace, with_kwargs=True)
        for module in theirs.modules()
        if type(module).__name__ == "Transformer2DModel"
    ]
    return lambda: [handle.remove() for handle in handles]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("text_rows", ["clip", "frame"])
@torch.no_grad()
def test_images_per_frame(name, text_rows):
    ours, theirs = shared_ip_pair(name, 2)
    inputs = image_inputs(CONFIGS[name], adapters=2, images=2, rows=6, text_rows=text_rows)
    embeds = inputs["added_cond_kwargs"]["image_embeds"]
    per_clip = [e[::3] for e in embeds]
    undo = with_images_per_frame(theirs, embeds)
    expected = run_theirs(theirs, with_embeds(inputs, per_clip))
    undo()
    result = run_ours(ours, inputs)
    assert_close(result, expected)
    assert_differs(result, run_ours(ours, with_embeds(inputs, per_clip)))


@torch.no_grad()
def test_images_per_frame_equal_frames_alone_where_nothing_moves():
    """With silent motion modules a clip is its frames one by one, each with its own image."""
    ours, _ = ip_pair(SD15)
    for module in ours.motion_parts():
        for layer in module:
            layer.proj_out.weight.zero_()
            layer.proj_out.bias.zero_()
    inputs = image_inputs(SD15, rows=6)
    result = run_ours(ours, inputs)
    rows = rows_of_frames(inputs["sample"])
    for row in range(6):
        alone = run_ours(
            ours,
            dict(
                sample=rows[row : row + 1].unsqueeze(2),
                timestep=inputs["timestep"][row // 3],
                encoder_hidden_states=inputs["encoder_hidden_states"][row // 3 : row // 3 + 1],
                added_cond_kwargs={"image_embeds": [inputs["added_cond_kwargs"]["image_embeds"][0][row : row + 1]]},
            ),
        )
        assert_close(result[row // 3, :, row % 3], alone[0, :, 0], what=f"frame {row}")


@torch.no_grad()
def test_images_in_the_frames_entry():
    ours, theirs = shared_ip_pair("sdxl", 1)
    inputs = image_inputs(SDXL)
    given = dict(inputs)
    rows = ours.forward_frames(rows_of_frames(given.pop("sample")), num_frames=3, **given)
    assert_close(clip_of_rows(rows, 3), run_theirs(theirs, inputs))


@pytest.mark.parametrize("text_rows", ["clip", "frame"])
@torch.no_grad()
def test_masked_images(text_rows):
    ours, theirs = ip_pair(SD15, adapters=2, scale=(0.5, 0.8))
    inputs = image_inputs(SD15, adapters=2, images=2, height=16, width=8, text_rows=text_rows)
    masks = [(torch.rand(1, 2, 64, 32) > 0.5).float(), torch.rand(1, 2, 64, 32)]
    kwargs = {"ip_adapter_masks": masks}
    result = run_ours(ours, inputs, cross_attention_kwargs=kwargs)
    assert_close(result, run_theirs(theirs, inputs, cross_attention_kwargs=kwargs))
    assert_differs(result, run_ours(ours, inputs))
    few = run_ours(ours, inputs, cross_attention_kwargs=kwargs, options=ForwardOptions(frames_at_once=2))
    assert_close(few, result)


@pytest.mark.parametrize("processor", available_processors())
@pytest.mark.parametrize("how", ["default", "option"])
@torch.no_grad()
def test_images_with_every_processor(processor, how):
    ours, theirs = ip_pair(TINY)
    inputs = image_inputs(TINY)
    if how == "default":
        ours.set_attn_processor(processor)
        layers = [module for module in ours.modules() if isinstance(module, IPAdapterProcessor)]
        assert layers and all(layer.kernel is PROCESSORS[processor] for layer in layers)
    options = ForwardOptions(attn_processors=processor) if how == "option" else None
    assert_close(run_ours(ours, inputs, options=options), run_theirs(theirs, inputs))


@torch.no_grad()
@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 6])
def test_images_with_a_few_frames_at_a_time(rows):
    """One image for a clip, and one for each frame: diffusers' split inference raises an error there."""
    ours, _ = ip_pair(TINY)
    inputs = image_inputs(TINY, rows=rows)
    assert_close(run_ours(ours, inputs, options=ForwardOptions(frames_at_once=2)), run_ours(ours, inputs))


def test_images_stay_through_the_setters():
    """diffusers crashes after `set_default_attn_processor` and after fusing with an IP-Adapter loaded."""
    ours, theirs = ip_pair(TINY)
    inputs = image_inputs(TINY)
    expected = run_theirs(theirs, inputs)
    keys = list(ours.state_dict())
    for change in (
        ours.set_default_attn_processor,
        ours.fuse_qkv_projections,
        lambda: ours.set_attn_processor("math"),
        lambda: ours.set_attn_processor(dict.fromkeys(ours.attn_processors, "sliced")),
        lambda: ours.set_attn_processor(dict(ours.attn_processors)),
        ours.unfuse_qkv_projections,
        lambda: ours.enable_forward_chunking(2),
        ours.set_default_attn_processor,
    ):
        change()
        assert_close(run_ours(ours, inputs), expected)
        assert list(ours.state_dict()) == keys


@torch.no_grad()
def test_foreign_processor_never_drops_the_images_silently():
    ours, theirs = ip_pair(TINY)
    inputs = image_inputs(TINY)
    try:
        result = run_ours(ours, inputs, options=ForwardOptions(attn_processors=AttnProcessor2_0()))
    except ValueError as error:
        assert "IP-Adapter" in str(error) or "image" in str(error)
    else:
        assert_close(result, run_theirs(theirs, inputs))


@torch.no_grad()
def test_names_of_the_layers_are_diffusers():
    ours, theirs = ip_pair(SD15, adapters=2)
    expected = theirs.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in expected.items()}
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


@torch.no_grad()
def test_unload_and_load_again():
    ours, theirs = ip_pair(TINY)
    plain, _ = pair(TINY)
    inputs = image_inputs(TINY)
    with_images = run_ours(ours, inputs)
    ours.unload_ip_adapter()
    assert list(ours.state_dict()) == list(plain.state_dict()) and ours.config == plain.config
    assert torch.equal(run_ours(ours, inputs), run_ours(plain, inputs))
    ours.load_ip_adapter(ip_state(pair(TINY)[1], 0))
    assert torch.equal(run_ours(ours, inputs), with_images)
    ours.load_ip_adapter([ip_state(pair(TINY)[1], seed) for seed in (5, 6)])
    assert_differs(run_ours(ours, image_inputs(TINY, adapters=2)), with_images)


@torch.no_grad()
def test_saved_with_the_model(tmp_path):
    """diffusers loses the image layers on the way through a folder: its config does not say that they are there."""
    ours, _ = ip_pair(TINY, adapters=2)
    ours.save_pretrained(tmp_path)
    again = UNetMotionModel.from_pretrained(tmp_path)
    inputs = image_inputs(TINY, adapters=2)
    assert again.config.encoder_hid_dim_type == "ip_image_proj"
    assert_close(run_ours(again, inputs), run_ours(ours, inputs), limit=1e-6)


@torch.no_grad()
def test_image_unet_with_images_is_inflated():
    config = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    unet = randomise(UNet2DConditionModel(**config))
    unet._load_ip_adapter_weights([ip_state(unet, 0)], low_cpu_mem_usage=False)
    ours = UNetMotionModel.from_unet2d(unet).eval()
    inputs = image_inputs(config)
    expected = unet(
        rows_of_frames(inputs["sample"]),
        inputs["timestep"].repeat_interleave(3),
        inputs["encoder_hidden_states"].repeat_interleave(3, dim=0),
        added_cond_kwargs={
            "image_embeds": [inputs["added_cond_kwargs"]["image_embeds"][0].repeat_interleave(3, dim=0)]
        },
    ).sample
    assert_close(run_ours(ours, inputs), clip_of_rows(expected, 3))
    assert isinstance(TheirModel.from_unet2d(unet), TheirModel)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_through_images(checkpointing):
    ours, theirs = ip_pair(TINY)
    inputs = image_inputs(TINY)
    grads = []
    if checkpointing:
        ours.enable_gradient_checkpointing()
    for model, run in ((ours, run_ours), (theirs, run_theirs)):
        embeds = [e.clone().requires_grad_() for e in inputs["added_cond_kwargs"]["image_embeds"]]
        run(model, with_embeds(inputs, embeds)).pow(2).sum().backward()
        grads.append(embeds[0].grad)
    assert_close(grads[0], grads[1], limit=1e-4)


def test_errors():
    ours, theirs = ip_pair(TINY)
    inputs = image_inputs(TINY)
    with pytest.raises(ValueError, match="image_embeds"):
        run_theirs(theirs, inputs, added_cond_kwargs={})
    with pytest.raises(ValueError, match="image_embeds"):
        run_ours(ours, inputs, added_cond_kwargs={})
    with pytest.raises(ValueError, match="image_embeds"):
        run_ours(ours, inputs, added_cond_kwargs=None)
    with pytest.raises(ValueError, match="image_embeds"):
        run_ours(ours, with_embeds(inputs, [torch.randn(2, 1, IMAGE_DIM)] * 2))
    with pytest.raises(ValueError, match="image_embeds"):
        run_ours(ours, with_embeds(inputs, [torch.randn(4, 1, IMAGE_DIM)]))
    with pytest.raises(ValueError, match="image_embeds"):
        run_ours(ours, with_embeds(inputs, [torch.randn(2, 1, IMAGE_DIM + 1)]))
    with pytest.raises(ValueError, match="ip_adapter_masks"):
        run_ours(ours, inputs, cross_attention_kwargs={"ip_adapter_masks": [torch.ones(1, 2, 8, 8)]})
    with pytest.raises(ValueError, match="scale"):
        ours.set_ip_adapter_scale([1.0, 2.0])


def test_file_that_does_not_fit():
    ours, theirs = pair(TINY)
    before = list(ours.state_dict())
    for broken in ("other model", "no part", "other projection"):
        state = ip_state(pair(SD15)[1] if broken == "other model" else theirs, 0)
        if broken == "no part":
            del state["ip_adapter"]
        if broken == "other projection":
            state["image_proj"] = {"latents": torch.randn(1, 16, 8)}
        with pytest.raises(ValueError, match="IP-Adapter"):
            ours.load_ip_adapter(state)
        assert list(ours.state_dict()) == before, f"{broken}: half-loaded"
        with torch.no_grad():
            run_ours(ours, make_inputs(TINY))
