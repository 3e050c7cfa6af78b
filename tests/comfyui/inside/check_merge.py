"""Core's merging nodes on two of our MODELs, against the arithmetic of their weights."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from check_apply import LAYER, lora, with_lora
from check_saving import folder, load, sampled, save  # noqa: F401 (a fixture)
from comfy_extras.nodes_model_merging import ModelAdd, ModelMergeBlocks, ModelMergeSimple, ModelSubtract
from comfy_extras.nodes_model_merging_model_specific import ModelMergeSD1
from pack.nodes.host.model.bundled import load_bundled_models
from small import relative


def tensors(model, patched=False):
    """A MODEL's own weights; position tables are no weights, and published motion modules have the same ones."""
    if not patched:
        comfy.model_management.unload_all_models()
    state = model.model.diffusion_model.state_dict()
    return {key: tensor.clone() for key, tensor in state.items() if not key.endswith("pos_embed.pe")}


def weights(model):
    """The same with the MODEL's patches in place."""
    comfy.model_management.load_models_gpu([model])
    found = tensors(model, patched=True)
    comfy.model_management.unload_all_models()
    return found


def with_weights(changed):
    """A MODEL of its own that holds given weights."""
    model = load_bundled_models()[0]
    model.model.diffusion_model.load_state_dict(changed, strict=False, assign=True)
    return model


@pytest.fixture(scope="module")
def text():
    clip = load_bundled_models()[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red star moving left"))


@pytest.fixture(scope="module")
def two():
    """Two MODELs whose weights all differ."""
    first = load_bundled_models()[0]
    generator = torch.Generator().manual_seed(9)
    second = {
        key: tensor + 0.1 * (tensor.std() + 0.1) * torch.randn(tensor.shape, generator=generator)
        for key, tensor in tensors(first).items()
    }
    return first, with_weights(second)


def check(merged, two, share, sizes=None):
    """Every weight of a merged MODEL is `share` of the first's plus the rest, or given sizes, of the second's."""
    first, second = map(tensors, two)
    found = weights(merged)
    assert found.keys() == first.keys() and any(key.startswith("motion.") for key in found)
    for key, value in found.items():
        a, b = (share(key), 1 - share(key)) if sizes is None else sizes
        assert torch.allclose(value, a * first[key] + b * second[key], rtol=1e-5, atol=1e-5), key
    after = tensors(two[0])
    assert all(torch.equal(first[key], after[key]) for key in first)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_simple_merge_is_the_weighted_mean_of_every_tensor(two, ratio):
    check(ModelMergeSimple().merge(*two, ratio)[0], two, lambda key: ratio)


def test_a_merge_changes_the_output_and_its_ends_are_the_two_models(two, text):
    first, second = (sampled(model, text) for model in two)
    assert relative(second, first) > 0.01
    assert torch.equal(sampled(ModelMergeSimple().merge(*two, 1.0)[0], text), first)
    assert relative(sampled(ModelMergeSimple().merge(*two, 0.0)[0], text), second) < 1e-4
    mine, other = map(tensors, two)
    mean = {key: (mine[key] + other[key]) / 2 for key in mine}
    half = sampled(ModelMergeSimple().merge(*two, 0.5)[0], text)
    assert relative(half, sampled(with_weights(mean), text)) < 1e-4
    assert relative(half, first) > 1e-3 and relative(half, second) > 1e-3
    assert torch.equal(sampled(two[0], text), first)


def test_a_merge_by_blocks_treats_motion_modules_as_the_input_blocks(two):
    ratios = {"input": 0.25, "middle": 0.5, "out": 0.75}

    def share(key):
        return next((ratio for start, ratio in ratios.items() if key.startswith(start)), ratios["input"])

    check(ModelMergeBlocks().merge(*two, **ratios)[0], two, share)


def test_the_merge_for_sd1_reaches_each_block_by_its_name(two):
    names = ModelMergeSD1.INPUT_TYPES()["required"]
    ratios = {name: (place % 7) / 6 for place, name in enumerate(names) if name not in ("model1", "model2")}

    def share(key):
        fitting = [name for name in ratios if key.startswith(name)]
        return ratios[max(fitting, key=len)] if fitting else next(iter(ratios.values()))

    assert len({share(key) for key in tensors(two[0])}) > 3
    check(ModelMergeSD1().merge(*two, **ratios)[0], two, share)


def test_adding_and_subtracting_is_done_on_every_tensor(two):
    check(ModelAdd().merge(*two)[0], two, None, (1.0, 1.0))
    check(ModelSubtract().merge(*two, 0.5)[0], two, None, (0.5, -0.5))


def test_the_difference_of_a_model_added_to_another_gives_it_back(two):
    difference = ModelSubtract().merge(two[1], two[0], 1.0)[0]
    found, expected = weights(ModelAdd().merge(two[0], difference)[0]), tensors(two[1])
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-5) for key in expected)


def test_loras_of_both_models_are_part_of_the_merge(two):
    down, up = lora("generic", width=64).values()
    first = with_lora(two[0], 0.5, style="generic", width=64)
    second = with_lora(two[1], -0.25, style="generic", width=64)
    a, b = (tensors(model)[f"{LAYER}.weight"] for model in two)
    found = weights(ModelMergeSimple().merge(first, second, 0.5)[0])[f"{LAYER}.weight"]
    expected = 0.5 * (a + 0.5 * (up @ down)) + 0.5 * (b - 0.25 * (up @ down))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_merge_is_saved_and_loaded_as_what_it_was(two, text, folder):  # noqa: F811
    merged = ModelMergeSimple().merge(*two, 0.5)[0]
    again = load(save(merged, folder))
    found, expected = tensors(again), weights(merged)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert torch.equal(sampled(again, text), sampled(merged, text))
