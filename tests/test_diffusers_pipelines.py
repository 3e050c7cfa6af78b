"""diffusers' AnimateDiff pipeline with this network inside, against the same pipeline with diffusers' own."""

import copy
import re

import diffusers
import pytest
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.reference import TINY, assert_close, assert_differs, randomise
from tools.diffusers_tests import write_tokenizer
from unet_motion.diffusers import MotionAdapter, UNetMotionModel, accelerate, restore


@pytest.fixture
def theirs():
    return randomise(diffusers.UNetMotionModel(**TINY), 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return CLIPTokenizer.from_pretrained(tmp_path_factory.getbasetemp() / "tokenizer0")


@pytest.fixture
def pipe(theirs, tokenizer):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    sizes = dict(hidden_size=12, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2, vocab_size=200)
    text, scheduler = CLIPTextModel(CLIPTextConfig(**sizes)), DDIMScheduler(clip_sample=False, beta_schedule="linear")
    widths = dict(block_out_channels=TINY["block_out_channels"], motion_norm_num_groups=TINY["norm_num_groups"])
    adapter = diffusers.MotionAdapter(**widths, motion_layers_per_block=1, motion_num_attention_heads=2)
    pipe = AnimateDiffPipeline(vae, text, tokenizer, theirs, adapter, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, frames=3, **options):
    options = {"prompt": "a red star", "negative_prompt": "grey", "num_frames": frames, **options}
    generator = torch.Generator().manual_seed(0)
    return pipe(
        height=16, width=16, generator=generator, num_inference_steps=2, guidance_scale=3.0, output_type="pt", **options
    ).frames


def test_a_pipeline_gets_this_unet_with_its_own_weights_and_back(pipe, theirs):
    expected = draw(pipe)
    accelerate(pipe)
    accelerate(pipe)
    assert isinstance(pipe.unet, UNetMotionModel)
    assert pipe.unet.conv_in.weight.data_ptr() == theirs.conv_in.weight.data_ptr()
    assert_close(draw(pipe), expected)
    with torch.no_grad():
        pipe.unet.conv_out.bias += 1
    changed = draw(pipe)
    assert_differs(changed, expected)
    restore(pipe)
    assert pipe.unet is theirs
    assert_close(draw(pipe), changed)
    with pytest.raises(ValueError, match="that `accelerate` did not put there"):
        restore(pipe)


def test_freeu_of_a_pipeline_stays(pipe):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    expected = draw(pipe)
    accelerate(pipe)
    assert_close(draw(pipe), expected)
    pipe.disable_freeu()
    assert_differs(draw(pipe), expected)


def test_freeu_that_is_set_after_accelerate_stays_and_so_does_gradient_checkpointing(pipe, theirs):
    plain = draw(pipe)
    theirs.enable_gradient_checkpointing()
    accelerate(pipe)
    assert pipe.unet.is_gradient_checkpointing
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    expected = draw(pipe)
    assert_differs(expected, plain)
    restore(pipe)
    assert_close(draw(pipe), expected)
    accelerate(pipe)
    pipe.disable_freeu()
    restore(pipe)
    assert_close(draw(pipe), plain)


def test_freeu_that_diffusers_does_not_have_is_not_lost_without_a_word(pipe, theirs):
    accelerate(pipe)
    ours = pipe.unet
    ours.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6, version="v2")
    with pytest.raises(ValueError, match=r"`pipe.unet` has FreeU v2, expected v1 or none"):
        restore(pipe)
    assert pipe.unet is ours
    ours.disable_freeu()
    restore(pipe)
    assert pipe.unet is theirs


IMMOVABLE = {
    "LoRAs": lambda pipe: pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"])),
    "FreeNoise": lambda pipe: pipe.enable_free_noise(4, 2),
    "hooks of offloading or casting": lambda pipe: pipe.unet.enable_layerwise_casting(storage_dtype=torch.float16),
}


@pytest.mark.parametrize("kind", IMMOVABLE)
def test_what_would_be_lost_on_the_way_is_refused_both_ways(pipe, theirs, kind):
    """Without a refusal FreeNoise goes on with half of its parts, and the rest ends inside torch."""
    accelerate(pipe)
    ours = pipe.unet
    IMMOVABLE[kind](pipe)
    with pytest.raises(ValueError, match=f"`pipe.unet` has {kind}, expected none: unload or turn them off before"):
        restore(pipe)
    assert pipe.unet is ours
    pipe.unet = theirs
    IMMOVABLE[kind](pipe)
    with pytest.raises(ValueError, match=f"`pipe.unet` has {kind}, expected none: load or turn them on after"):
        accelerate(pipe)
    assert pipe.unet is theirs


@pytest.mark.parametrize(
    ("kind", "turn_on"),
    [
        ("fused projections", lambda pipe: pipe.unet.fuse_qkv_projections()),
        ("split inference", lambda pipe: pipe.enable_free_noise_split_inference(spatial_split_size=3)),
    ],
)
def test_other_layers_in_the_place_of_diffusers_own_are_refused(pipe, kind, turn_on):
    turn_on(pipe)
    with pytest.raises(ValueError, match=f"`pipe.unet` has {kind}, expected none: load or turn them on after"):
        accelerate(pipe)


def test_off_again_is_nothing_that_is_lost(pipe):
    plain = draw(pipe, frames=6)
    for turn in (accelerate, restore):
        pipe.enable_free_noise(4, 2)
        pipe.disable_free_noise()
        turn(pipe)
        assert_close(draw(pipe, frames=6), plain)
    with pytest.raises(ValueError, match="`pipe.unet` is a NoneType that `accelerate` did not put there"):
        restore(object())


def test_what_cannot_be_moved_is_refused(pipe, theirs):
    theirs.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="has LoRAs, expected none"):
        accelerate(pipe)
    with pytest.raises(TypeError, match="`pipe.unet` is a NoneType, expected diffusers' UNetMotionModel"):
        accelerate(object())


def test_a_whole_pipeline_is_saved_and_read_again(pipe, tmp_path):
    accelerate(pipe)
    expected = draw(pipe)
    pipe.save_pretrained(tmp_path)
    absent = dict.fromkeys(("feature_extractor", "image_encoder"))
    read = AnimateDiffPipeline.from_pretrained(tmp_path, **absent)
    read.set_progress_bar_config(disable=True)
    assert type(read.unet) is UNetMotionModel
    assert_close(draw(read), expected)


def drawn_by_both(pipe, prepare, **options):
    """What the pipeline draws with diffusers' UNet and with this one, each prepared alike; and without preparation."""
    plain = draw(pipe, **{name: value for name, value in options.items() if name == "frames"})
    prepare(pipe)
    expected = draw(pipe, **options)
    pipe.unet = randomise(diffusers.UNetMotionModel(**TINY), 1)
    accelerate(pipe)
    prepare(pipe)
    return draw(pipe, **options), expected, plain


SCHEMES = [(5, 2, "pyramid"), (4, 2, "delayed_reverse_sawtooth"), (3, 4, "flat")]


@pytest.mark.parametrize(("length", "stride", "scheme"), SCHEMES)
def test_free_noise_gives_diffusers_values_and_is_switched_off(pipe, length, stride, scheme, frames=9):
    """Whole windows, a last one for the frames that are left, and frames that no window has."""
    ours, expected, plain = drawn_by_both(
        pipe, lambda pipe: pipe.enable_free_noise(length, stride, scheme, "random"), frames=frames
    )
    assert_close(ours, expected)
    assert_differs(ours, plain)
    block = pipe.unet.down_blocks[0].motion_modules[0].transformer_blocks[0]
    assert isinstance(block, diffusers.models.attention.FreeNoiseTransformerBlock)
    pipe.disable_free_noise()
    assert isinstance(block, diffusers.models.attention.BasicTransformerBlock)
    assert_close(draw(pipe, frames), plain)


ATTRIBUTES = (
    "dim num_attention_heads attention_head_dim dropout cross_attention_dim activation_fn attention_bias "
    "only_cross_attention double_self_attention positional_embeddings num_positional_embeddings _chunk_size _chunk_dim"
).split()


def attributes_of_blocks(unet):
    return {
        name: [getattr(block, attribute) for attribute in ATTRIBUTES]
        for name, block in unet.named_modules()
        if re.search(r"motion_modules\.\d+\.transformer_blocks\.\d+$", name)
    }


def test_blocks_of_motion_modules_have_diffusers_attributes_with_and_without_free_noise(pipe, theirs):
    plain = attributes_of_blocks(theirs)
    pipe.enable_free_noise(4, 2)
    free = attributes_of_blocks(theirs)
    pipe.disable_free_noise()
    accelerate(pipe)
    assert plain and attributes_of_blocks(pipe.unet) == plain
    pipe.enable_free_noise(4, 2)
    assert attributes_of_blocks(pipe.unet) == free
    pipe.disable_free_noise()
    assert attributes_of_blocks(pipe.unet) == plain


def test_free_noise_draws_clips_longer_than_the_position_table_but_none_shorter_than_a_window(pipe):
    prompts = {0: "a red star", 5: "a blue star"}
    ours, expected, _ = drawn_by_both(pipe, lambda pipe: pipe.enable_free_noise(8, 4), frames=9, prompt=prompts)
    assert_close(ours, expected)
    assert draw(pipe, frames=40).shape[1] == 40
    with pytest.raises(ValueError, match="the clip has 3 frames, expected at least `context_length` 8"):
        draw(pipe, frames=3)


def test_split_inference_changes_no_value_and_runs_in_parts(pipe):
    plain = draw(pipe, frames=7)
    accelerate(pipe)
    names = set(pipe.unet.state_dict())
    pipe.enable_free_noise_split_inference(spatial_split_size=3, temporal_split_size=2)
    sizes = {"frames": set(), "pixels": set()}
    pipe.unet.mid_block.resnets[0].module.register_forward_pre_hook(lambda _, x: sizes["frames"].add(len(x[0])))
    module = pipe.unet.mid_block.motion_modules[0]
    run = module._transform
    module._transform = lambda hidden, *others: (sizes["pixels"].add(hidden.shape[2]), run(hidden, *others))[1]
    with torch.inference_mode():
        assert_close(draw(pipe, frames=7), plain)
    assert sizes == {"frames": {4, 2}, "pixels": {3, 1}}
    assert set(pipe.unet.state_dict()) == names


KINDS = {"plain": ("proj",), "full face": ("proj.0", "proj.2"), "face id": ("proj.0", "proj.2")}


def image_prompt(unet, kind, seed):
    """An IP-Adapter file of a kind, with random values."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    width, tokens, embed = 12, 4, 6
    norm, shapes = "norm", {"proj": (tokens * width, embed)}
    if kind == "full face":
        norm, shapes = "proj.3", {"proj.0": (embed, embed), "proj.2": (width, embed)}
    elif kind == "face id":
        shapes = {"proj.0": (2 * embed, embed), "proj.2": (tokens * width, 2 * embed)}
    image = {f"{name}.weight": random(*shape) for name, shape in shapes.items()}
    image |= {f"{name}.bias": random(shape[0]) for name, shape in shapes.items()}
    image |= {f"{norm}.weight": random(width), f"{norm}.bias": random(width)}
    cross = [name for name in unet.attn_processors if "attn2" in name and "motion" not in name]
    layers = {}
    for i, name in enumerate(cross):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
        layers |= {f"{2 * i + 1}.{part}.weight": random(inner, width) for part in ("to_k_ip", "to_v_ip")}
    return {"image_proj": image, "ip_adapter": layers}


@pytest.mark.parametrize("kind", KINDS)
def test_ip_adapters_of_all_kinds_give_diffusers_values(pipe, kind):
    embeds = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(3))
    embeds = embeds.unsqueeze(2) if kind != "plain" else embeds

    def prepare(pipe):
        pipe.unet._load_ip_adapter_weights([image_prompt(pipe.unet, kind, 5)])
        pipe.set_ip_adapter_scale(0.7)

    ours, expected, plain = drawn_by_both(pipe, prepare, ip_adapter_image_embeds=[embeds])
    assert_close(ours, expected)
    assert_differs(ours, plain)
    pipe.set_ip_adapter_scale(0.0)
    assert_close(draw(pipe, ip_adapter_image_embeds=[embeds]), plain)
    pipe.unload_ip_adapter()
    assert_close(draw(pipe), plain)


def test_two_ip_adapters_with_masks_and_scales_by_image_and_by_block_give_diffusers_values(pipe):
    images = [torch.randn(2, n, 6, generator=torch.Generator().manual_seed(n)) for n in (2, 1)]
    masks = IPAdapterMaskProcessor().preprocess([torch.eye(16)[None], torch.ones(1, 16, 16)], height=16, width=16)
    masks = [masks.reshape(1, 2, 16, 16), masks[:1].reshape(1, 1, 16, 16)]

    def prepare(pipe):
        pipe.unet._load_ip_adapter_weights([image_prompt(pipe.unet, "plain", seed) for seed in (5, 6)])
        pipe.set_ip_adapter_scale([[0.3, 0.9], {"down": {"block_0": [0.5]}, "up": {"block_1": [0.2, 0.8]}}])

    options = {"ip_adapter_image_embeds": images, "cross_attention_kwargs": {"ip_adapter_masks": masks}}
    ours, expected, plain = drawn_by_both(pipe, prepare, **options)
    assert_close(ours, expected)
    assert_differs(ours, plain)


def test_another_pipeline_takes_over_these_parts(pipe):
    accelerate(pipe)
    pipe.motion_adapter = MotionAdapter.of(pipe.unet.motion_adapter())
    other = diffusers.AnimateDiffVideoToVideoPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet and other.motion_adapter is pipe.motion_adapter
    assert UNetMotionModel == diffusers.UNetMotionModel and UNetMotionModel != diffusers.MotionAdapter
    assert len({UNetMotionModel, diffusers.UNetMotionModel}) == 2


def test_fused_projections_and_diffusers_processors_change_no_value(pipe):
    plain = draw(pipe)
    accelerate(pipe)
    pipe.fuse_qkv_projections(vae=False)
    assert pipe.unet.defaults.fused_projections
    assert_close(draw(pipe), plain)
    pipe.unfuse_qkv_projections(vae=False)
    assert not pipe.unet.defaults.fused_projections
    for processor in (AttnProcessor2_0(), FusedAttnProcessor2_0(), dict.fromkeys(pipe.unet.attn_processors, "math")):
        pipe.unet.set_attn_processor(processor)
        assert_close(draw(pipe), plain)
    assert {processor.name for processor in pipe.unet.attn_processors.values()} == {"math"}
    # What was given is what is shown, object by object, and in the copy of the model too.
    given = {name: AttnProcessor2_0() for name in pipe.unet.attn_processors}
    pipe.unet.set_attn_processor(given)
    assert pipe.unet.attn_processors == given
    assert {type(p) for p in copy.deepcopy(pipe.unet).attn_processors.values()} == {AttnProcessor2_0}
    pipe.unet.set_default_attn_processor()
    assert {processor.name for processor in pipe.unet.attn_processors.values()} == {"auto"}
    pipe.unet.set_attn_processor(given)
    pipe.unet.set_attn_processor({"*.motion_modules.*": "sdpa"})
    for name, processor in pipe.unet.attn_processors.items():
        assert processor.name == "sdpa" if ".motion_modules." in name else processor is given[name]
    with pytest.raises(ValueError, match="`attention_op` is 'mine', expected None"):
        pipe.unet.enable_xformers_memory_efficient_attention("mine")


def test_an_image_pipelines_parts_become_this_network_as_diffusers_makes_it(pipe):
    """The adapter says another number of norm groups than the image UNet, which is the one that counts."""
    image = diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=2,
    )  # fmt: skip
    randomise(image, 3)
    sizes = dict(block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2)
    adapter = randomise(diffusers.MotionAdapter(**sizes, motion_norm_num_groups=2), 4)
    pipe.unet = diffusers.UNetMotionModel.from_unet2d(image, adapter)
    expected = draw(pipe)
    for given in (adapter, MotionAdapter(**sizes, motion_norm_num_groups=2)):
        given.load_state_dict(adapter.state_dict())
        pipe.unet = UNetMotionModel.from_unet2d(image, given)
        assert isinstance(pipe.unet, diffusers.UNetMotionModel)
        assert_close(draw(pipe), expected)
        assert given.config["motion_norm_num_groups"] == 2
