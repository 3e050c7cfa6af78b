"""`unet_motion.diffusers`: what diffusers' base classes do with this network, against diffusers' own class."""

import inspect

import diffusers
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from tests.formats.files import adapter, randomise
from tests.reference import TINY, assert_close, assert_differs, make_inputs, run_theirs
from unet_motion.diffusers import MotionAdapter, UNetMotionModel


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
    expected = module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in read.state_dict().items())
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


def test_a_new_adapter_has_the_random_values_that_diffusers_has_from_the_same_seed():
    sizes = dict(block_out_channels=(8, 16), motion_norm_num_groups=4, motion_num_attention_heads=2)
    states = []
    for kind in (MotionAdapter, diffusers.MotionAdapter):
        torch.manual_seed(3)
        states.append(kind(**sizes).state_dict())
    for name, value in states[1].items():
        table = name.endswith(".pe") and torch.allclose(value, states[0][name])
        assert table or torch.equal(value, states[0][name]), name
    assert UNetMotionModel(**TINY).mid_block.motion_modules[0].proj_out.weight.any()


def test_methods_of_diffusers_names_begin_with_its_values():
    compared = 0
    for ours, theirs in ((UNetMotionModel, diffusers.UNetMotionModel), (MotionAdapter, diffusers.MotionAdapter)):
        for name in ours.__dict__.keys() & vars(theirs).keys():
            own, other = getattr(ours, name), getattr(theirs, name)
            if name.startswith("_") or name == "forward" or not callable(own):
                continue
            own, other = inspect.signature(own).parameters, inspect.signature(other).parameters
            for key in own.keys() & other.keys():
                assert own[key].default == other[key].default, (name, key)
                compared += own[key].default is not inspect.Parameter.empty
    assert compared >= 4
