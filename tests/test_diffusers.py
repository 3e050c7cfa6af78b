"""`unet_motion.diffusers`: what diffusers' base classes do with this network, against diffusers' own class."""

import diffusers
import pytest
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler
from peft import LoraConfig
from safetensors.torch import save_file

from tests.formats.files import adapter, randomise
from tests.reference import TINY, assert_close, assert_differs, make_inputs, run_theirs
from unet_motion.diffusers import MotionAdapter, UNetMotionModel, accelerate, restore


@pytest.fixture
def theirs():
    return randomise(diffusers.UNetMotionModel(**TINY), 1).eval()


@pytest.fixture
def ours(theirs):
    model = UNetMotionModel(**TINY).eval()
    model.load_state_dict(theirs.state_dict())
    return model


@pytest.fixture
def inputs():
    return make_inputs(TINY, batch=2, frames=3)


def run(model, inputs):
    with torch.no_grad():
        return model(**inputs).sample


def run_reference(model, inputs):
    with torch.no_grad():
        return run_theirs(model, inputs)


def test_folders_are_read_by_both_classes_with_diffusers_own_code(ours, theirs, inputs, tmp_path):
    ours.save_pretrained(tmp_path / "ours", variant="fp16", max_shard_size="20KB")
    read = diffusers.UNetMotionModel.from_pretrained(tmp_path / "ours", variant="fp16")
    assert torch.equal(run_reference(read, inputs), run_reference(theirs, inputs))
    theirs.save_pretrained(tmp_path / "theirs")
    again, info = UNetMotionModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values()) and again.config._name_or_path == tmp_path / "theirs"
    assert torch.equal(run(again, inputs), run(ours, inputs))
    made = UNetMotionModel.from_config(again.config).eval()
    made.load_state_dict(theirs.state_dict())
    assert torch.equal(run(made, inputs), run(ours, inputs))


def test_configuration_is_diffusers_dictionary_and_this_projects(ours, theirs):
    assert isinstance(ours.config, dict)
    for name, value in theirs.config.items():
        if not name.startswith("_"):
            expected = tuple(value) if isinstance(value, list) else value
            assert ours.config[name] == getattr(ours.config, name) == expected, name
    ours.set_norm_scope(resnet="clip")
    assert ours.config["resnet_norm_scope"] == ours.config.resnet_norm_scope == "clip"
    assert ours.defaults.resnet_norm_scope == "clip"
    ours.register_to_config(_name_or_path="somewhere", motion_norm_scope="frame")
    assert ours.config._name_or_path == "somewhere" and ours.defaults.motion_norm_scope == "frame"
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.get_memory_footprint() == theirs.get_memory_footprint()
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        ours.nothing_of_the_kind  # noqa: B018


def test_a_peft_adapter_acts_as_on_diffusers_class_and_is_switched_and_scaled(ours, theirs, inputs):
    plain = run(ours, inputs)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["to_q", "to_v", "to_out.0", "ff.net.0.proj"])
    for model in (ours, theirs):
        model.add_adapter(config, adapter_name="one")
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.manual_seed(len(name))
                torch.nn.init.normal_(parameter, std=0.3)
    expected = run_reference(theirs, inputs)
    assert_differs(expected, plain)
    assert_close(run(ours, inputs), expected)
    for model in (ours, theirs):
        model.set_adapters(["one"], [0.5])
    halved = run_reference(theirs, inputs)
    assert_differs(halved, expected)
    assert_close(run(ours, inputs), halved)
    ours.disable_lora()
    assert_close(run(ours, inputs), plain)


def test_layerwise_casting_and_offloading_compute_what_diffusers_class_computes(ours, theirs, inputs):
    plain = run(ours, inputs)
    for model in (ours, theirs):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert ours.conv_in.weight.dtype == torch.float8_e4m3fn and ours.dtype == torch.float32
    rounded = run_reference(theirs, inputs)
    assert_differs(rounded, plain)
    assert_close(run(ours, inputs), rounded)


def test_single_files_become_adapters_of_this_class(tmp_path):
    module = adapter(seed=4)
    path = tmp_path / "motion.safetensors"
    save_file(module.state_dict(), path)
    read = MotionAdapter.from_single_file(path, torch_dtype=torch.float32)
    assert isinstance(read, diffusers.ModelMixin)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in read.state_dict().items())
    with pytest.raises(TypeError, match=r"has no argument config_of_mine"):
        MotionAdapter.from_single_file(path, config_of_mine=1)


def test_gradient_checkpointing_takes_diffusers_function(ours, inputs):
    called = []

    def function(module, *arguments):
        called.append(module)
        return torch.utils.checkpoint.checkpoint(module, *arguments, use_reentrant=False)

    expected = run(ours, inputs)
    ours.enable_gradient_checkpointing(function)
    assert ours.is_gradient_checkpointing
    sample = inputs["sample"].requires_grad_()
    assert_close(ours(**{**inputs, "sample": sample}).sample, expected)
    assert called
    ours.disable_gradient_checkpointing()
    assert not ours.is_gradient_checkpointing


@pytest.fixture
def pipe(theirs):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    sizes = dict(hidden_size=12, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2, vocab_size=99)
    text, scheduler = CLIPTextModel(CLIPTextConfig(**sizes)), DDIMScheduler(clip_sample=False, beta_schedule="linear")
    pipe = AnimateDiffPipeline(vae, text, None, theirs, None, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe):
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    return pipe(
        prompt_embeds=text[:1], negative_prompt_embeds=text[1:], num_frames=3, height=16, width=16, generator=generator,
        num_inference_steps=2, guidance_scale=3.0, output_type="pt",
    ).frames  # fmt: skip


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


def test_what_cannot_be_moved_is_refused(pipe, theirs):
    theirs.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="has LoRAs or an IP-Adapter loaded, expected none"):
        accelerate(pipe)
    with pytest.raises(TypeError, match="`pipe.unet` is a NoneType, expected diffusers' UNetMotionModel"):
        accelerate(object())


def test_a_whole_pipeline_is_saved_and_read_again(pipe, tmp_path):
    accelerate(pipe)
    expected = draw(pipe)
    pipe.save_pretrained(tmp_path)
    absent = dict.fromkeys(("tokenizer", "motion_adapter", "feature_extractor", "image_encoder"))
    read = AnimateDiffPipeline.from_pretrained(tmp_path, **absent)
    read.set_progress_bar_config(disable=True)
    assert type(read.unet) is UNetMotionModel
    assert_close(draw(read), expected)
