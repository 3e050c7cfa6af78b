"""Motion modules in and out of a model: `load_motion_modules`, `save_motion_modules`, `MotionAdapter` folders."""

import json
import warnings

import pytest
import torch

from tests.reference import (
    SD15,
    TINY,
    MotionAdapter,
    TheirAdapter,
    UNetMotionModel,
    adapter_pair,
    assert_close,
    assert_differs,
    assert_same_state,
    make_inputs,
    pair,
    randomise,
    run_ours,
    run_theirs,
)

NET = {**TINY, "layers_per_block": 2}
ADAPTER = dict(
    block_out_channels=(8, 16), motion_layers_per_block=2, motion_num_attention_heads=2, motion_norm_num_groups=4
)


def motion_state(model):
    return {key: value for key, value in model.state_dict().items() if ".motion_modules." in key}


@pytest.mark.parametrize("use_mid", [True, False])
@torch.no_grad()
def test_loaded_motion_modules_equal_diffusers(use_mid):
    ours, theirs = pair({**NET, "use_motion_mid_block": use_mid})
    our_adapter, their_adapter = adapter_pair(**ADAPTER, use_motion_mid_block=use_mid)
    inputs = make_inputs(NET)
    before = run_ours(ours, inputs)
    ours.load_motion_modules(our_adapter)
    theirs.load_motion_modules(their_adapter)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, before)


@torch.no_grad()
def test_adapter_with_mid_block_into_a_net_without():
    """diffusers leaves the adapter's mid block out; so do we."""
    config = {**NET, "use_motion_mid_block": False}
    ours, theirs = pair(config)
    our_adapter, their_adapter = adapter_pair(**ADAPTER)
    with pytest.warns(UserWarning, match="mid block"):
        ours.load_motion_modules(our_adapter)
    theirs.load_motion_modules(their_adapter)
    assert_close(run_ours(ours, make_inputs(NET)), run_theirs(theirs, make_inputs(NET)))


@torch.no_grad()
def test_adapter_without_mid_block_into_a_net_with():
    """diffusers crashes. The mid block's motion must then do nothing, as if the net had none."""
    ours, theirs = pair(NET)
    our_adapter, their_adapter = adapter_pair(**ADAPTER, use_motion_mid_block=False)
    with pytest.raises(AttributeError):
        theirs.load_motion_modules(their_adapter)
    inputs = make_inputs(NET)
    with pytest.warns(UserWarning, match="mid block"):
        ours.load_motion_modules(our_adapter)
    for module in theirs.mid_block.motion_modules:
        module.proj_out.weight.zero_()
        module.proj_out.bias.zero_()
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize(
    "changes",
    [
        dict(block_out_channels=(8, 8)),
        dict(motion_layers_per_block=1),
        dict(block_out_channels=(8, 16, 16)),
        dict(motion_transformer_layers_per_block=2),
    ],
    ids=["width", "layers", "blocks", "depth"],
)
def test_adapter_that_does_not_fit_is_refused_whole(changes):
    ours, _ = pair(NET)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    adapter = randomise(MotionAdapter(**{**ADAPTER, **changes}), 9)
    with pytest.raises(ValueError, match="(?i)adapter"):
        ours.load_motion_modules(adapter)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items()), "half-loaded"


@pytest.mark.parametrize("rows", [24, 40])
@pytest.mark.parametrize("use_mid", [True, False])
@pytest.mark.filterwarnings("ignore:.*mid block:UserWarning")
@torch.no_grad()
def test_position_table_of_another_length_is_taken(rows, use_mid):
    """diffusers fails with a size mismatch; a net takes the adapter's length, its limit with it."""
    ours, _ = pair(NET)
    adapter, _ = adapter_pair(**ADAPTER, motion_max_seq_length=rows, use_motion_mid_block=use_mid)
    ours.load_motion_modules(adapter)
    assert ours.config.motion_max_seq_length == rows
    _, theirs = pair({**NET, "motion_max_seq_length": rows})
    theirs.load_state_dict(ours.state_dict(), strict=True)
    inputs = make_inputs(NET, frames=rows, height=4, width=4)
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))
    with pytest.raises(ValueError, match=str(rows)):
        run_ours(ours, make_inputs(NET, frames=rows + 1, height=4, width=4))


SAVED = {
    "plain": {},
    "no mid block": dict(use_motion_mid_block=False),
    "temporal depth": dict(temporal_transformer_layers_per_block=2),
    "temporal depth per block": dict(temporal_transformer_layers_per_block=(3, 2)),
    "mid depth": dict(temporal_transformer_layers_per_mid_block=3),
    "mid layers": dict(mid_block_layers=2, temporal_transformer_layers_per_mid_block=(2, 1)),
    "no mid layers": dict(mid_block_layers=0),
    "layers per block": dict(layers_per_block=(1, 3)),
    "heads": dict(motion_num_attention_heads=(4, 2), motion_max_seq_length=24),
    "up path of its own": dict(
        temporal_transformer_layers_per_block=[[1, 2], [2, 1]],
        reverse_temporal_transformer_layers_per_block=[[1, 2, 1], [3, 1, 1]],
    ),
    "up path heads": dict(reverse_motion_num_attention_heads=(1, 4)),
    "pia": dict(in_channels=9),
}


@pytest.mark.parametrize("name", SAVED)
@torch.no_grad()
def test_saved_motion_modules_come_back(name, tmp_path):
    config = {**NET, **SAVED[name]}
    ours, _ = pair(config)
    ours.save_motion_modules(tmp_path)
    assert (tmp_path / "config.json").is_file()
    adapter = MotionAdapter.from_pretrained(tmp_path)
    expected = motion_state(ours)
    assert_same_state(motion_state(adapter), expected)

    other, _ = pair(config, seed=11)
    rest = {key: value for key, value in ours.state_dict().items() if key not in expected}
    other.load_state_dict({**other.state_dict(), **rest})
    inputs = make_inputs(config)
    assert_differs(run_ours(other, inputs), run_ours(ours, inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a net with a mid block of no layers
        other.load_motion_modules(adapter)
    assert torch.equal(run_ours(other, inputs), run_ours(ours, inputs))


@pytest.mark.parametrize(
    "name", ["plain", "no mid block", "temporal depth", "mid depth", "mid layers", "layers per block", "heads"]
)
def test_diffusers_reads_saved_motion_modules(name, tmp_path):
    ours, _ = pair({**NET, **SAVED[name]})
    ours.save_motion_modules(tmp_path)
    theirs = TheirAdapter.from_pretrained(tmp_path)
    assert_same_state(motion_state(theirs), motion_state(ours))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["_class_name"] == "MotionAdapter"
    if name == "heads":
        assert written["motion_num_attention_heads"] == [4, 2] and written["motion_max_seq_length"] == 24


@torch.no_grad()
def test_adapter_saved_by_diffusers_is_read(tmp_path):
    _, theirs = adapter_pair(**ADAPTER, conv_in_channels=9)
    theirs.save_pretrained(tmp_path)
    ours = MotionAdapter.from_pretrained(tmp_path)
    assert ours.config.conv_in_channels == 9
    assert_same_state(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["plain", "up path of its own", "mid layers"])
@torch.no_grad()
def test_whole_model_comes_back(name, tmp_path):
    config = {**NET, **SAVED[name]}
    ours, theirs = pair(config, resnet_norm_scope="clip", motion_norm_scope="frame")
    ours.save_pretrained(tmp_path / "ours")
    again = UNetMotionModel.from_pretrained(tmp_path / "ours")
    assert again.config == ours.config and not again.training
    inputs = make_inputs(config)
    assert_same_state(again.state_dict(), ours.state_dict())
    # Not to the last bit: weights read from a file lie elsewhere in memory, and some products depend on that.
    assert_close(run_ours(again, inputs), run_ours(ours, inputs))

    theirs.save_pretrained(tmp_path / "theirs")
    read = UNetMotionModel.from_pretrained(tmp_path / "theirs")
    assert_close(run_ours(read, inputs), run_theirs(theirs, inputs))
    back = type(theirs).from_pretrained(tmp_path / "ours")
    assert_same_state(back.state_dict(), theirs.state_dict())
    assert_close(run_theirs(back.eval(), inputs), run_theirs(theirs, inputs))


def test_adapter_shares_no_memory_with_the_model():
    ours, _ = pair(SD15)
    adapter = randomise(
        MotionAdapter(
            block_out_channels=SD15["block_out_channels"], motion_num_attention_heads=2, motion_norm_num_groups=4
        ),
        2,
    )
    ours.load_motion_modules(adapter)
    pointers = {p.data_ptr() for p in adapter.parameters()}
    assert not pointers & {p.data_ptr() for p in ours.parameters()}
