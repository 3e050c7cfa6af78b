"""Load Motion LoRA: patches of the weights where its strength is one number, data of each call where it varies."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import comfy.model_management as mm
import comfy.sample
import numpy as np
import pytest
import torch
from check_apply import run
from check_lora import sampled
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.step.settings import with_settings
from pack.nodes.host.step.strengths import VaryingLora
from pack.unet_motion import apply_motion_lora, remove_motion_lora
from pack.unet_motion.files.errors import KeyMismatchError
from safetensors.torch import save_file
from small import inputs, motion_module, options, relative, sd15

BLOCK = "down_blocks.0.motion_modules.0.transformer_blocks.0"
ORIGINAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LDM = "input_blocks.1.1.transformer_blocks.0.attn1"
FRAMES = 4


def tensors(seed=7, width=32, rank=4):
    """AnimateDiff's names: the first three attention layers of a block and the output of its second attention."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for place in ("0.processor.to_q", "0.processor.to_k", "0.processor.to_v", "1.processor.to_out"):
        for half, shape in (("down", (rank, width)), ("up", (width, rank))):
            name = f"{ORIGINAL}.attention_blocks.{place}_lora.{half}.weight"
            found[name] = 0.3 * torch.randn(shape, generator=generator)
    return found


def written(folder, state, name="pan.safetensors"):
    path = folder / name
    save_file(state, path)
    return str(path)


@pytest.fixture(scope="module")
def moving():
    return apply_motion_module(sd15(), motion_module())


@pytest.fixture
def file(tmp_path):
    return written(tmp_path, tensors())


def call(model, timestep=600.0, frames=FRAMES, **extra):
    torch.manual_seed(2)
    given = {**inputs(frames, 8, 8), "timesteps": torch.full((2 * frames,), timestep)}
    settings = model.model_options["transformer_options"]
    return model.model.diffusion_model(**given, transformer_options={**settings, **options(), **extra})


def by_hand(strengths, timestep=600.0, state=None, **extra):
    """The library's LoRA, which acts on the layers' outputs, on a model of its own: one strength per frame."""
    model = apply_motion_module(sd15(), motion_module())
    core = model.model.diffusion_model.core
    applied = apply_motion_lora(core, state or tensors(), strengths)
    out = call(model, timestep, **extra)
    remove_motion_lora(core, applied)
    return out


def test_several_of_constant_strength_are_patches_that_add_up_and_leave_exactly(moving, tmp_path):
    first, second = tensors(), tensors(seed=8, rank=2)
    paths = written(tmp_path, first, "a.safetensors"), written(tmp_path, second, "b.safetensors")
    plain = run(moving)
    one = load_motion_lora(moving, paths[0], 0.5)
    both = load_motion_lora(one, paths[1], -0.25)
    assert "unet_motion" not in both.model_options["transformer_options"]
    own = apply_motion_module(sd15(), motion_module())
    for state, strength in ((first, 0.5), (second, -0.25)):
        names = {key.removesuffix("_lora.up.weight") for key in state if key.endswith("_lora.up.weight")}
        for name in names:
            block, layer = name.split(".attention_blocks.")
            number, leaf = layer.replace("to_out", "to_out.0").split(".processor.")
            path = f"motion.{block.replace('temporal_transformer.', '')}.attn{int(number) + 1}.{leaf}.weight"
            weight = own.model.diffusion_model.get_parameter(path)
            weight.data = weight + strength * state[f"{name}_lora.up.weight"] @ state[f"{name}_lora.down.weight"]
    assert relative(run(both), run(own)) < 1e-5 < 1e-4 < relative(run(one), run(own))
    assert torch.equal(run(moving), plain) and relative(plain, run(own)) > 1e-4
    # A curve that does not rise or fall is one strength.
    level = load_motion_lora(moving, paths[0], 0.5, "0:2, 1:2", "3:0.5")
    assert torch.equal(run(level), run(one)) and level.patches
    assert torch.equal(run(load_motion_lora(moving, paths[0], 0.0)), plain)


DIRECTOR = {
    "temporal": (f"unet.{BLOCK}.attn1.processor.to_q_lora", f"motion.{BLOCK}.attn1.to_q"),
    "temporal in training": (f"module.{ORIGINAL}.attention_blocks.0.to_q.lora", f"motion.{BLOCK}.attn1.to_q"),
    "temporal in the web UI": (f"lora_unet_{ORIGINAL.replace('.', '_')}_attention_blocks_0_to_q.lora_", None),
    "spatial": (f"unet.{SPATIAL}.processor.to_q_lora", f"{LDM}.to_q"),
    "spatial in the web UI": (f"lora_unet_{SPATIAL.replace('.', '_')}_to_q.lora_", f"{LDM}.to_q"),
}


@pytest.mark.parametrize("kind", DIRECTOR)
def test_motion_directors_files_load(moving, tmp_path, caplog, kind):
    name, layer = DIRECTOR[kind]
    layer = layer or f"motion.{BLOCK}.attn1.to_q"
    dot = "" if name.endswith("_") else "."
    path = written(tmp_path, {f"{name}{dot}{half}.weight": torch.ones(shape) for half, shape in
                              (("down", (2, 32)), ("up", (32, 2)))})  # fmt: skip
    with caplog.at_level(logging.INFO):
        patched = load_motion_lora(moving, path, 1.0)
    assert list(patched.patches) == [f"diffusion_model.{layer}.weight"]
    assert "pan.safetensors: 1 of 1 layers matched" in caplog.text


def test_motion_directors_port_is_applied_whole_and_a_part_only_where_it_may(moving, tmp_path, caplog):
    """In its names `processor` stands before the third-last part, whatever that is."""
    prefix, state = f"{ORIGINAL}.", {}
    places = {
        "attention_blocks.0.processor.to_q": "attn1.to_q", "attention_blocks.0.to_out.processor.0": "attn1.to_out.0",
        "ff.net.0.processor.proj": "ff.net.0.proj", "ff.net.processor.2": "ff.net.2",
    }  # fmt: skip
    plain, own = run(moving), apply_motion_module(sd15(), motion_module())
    for i, (name, layer) in enumerate(places.items()):
        path = f"motion.{BLOCK}.{layer}.weight"
        weight = own.model.diffusion_model.get_parameter(path)
        generator = torch.Generator().manual_seed(i)
        down = 0.3 * torch.randn(2, weight.shape[1], generator=generator)
        up = 0.3 * torch.randn(weight.shape[0], 2, generator=generator)
        weight.data = weight + up @ down
        state |= {f"{prefix}{name}_lora.down.weight": down, f"{prefix}{name}_lora.up.weight": up}
    whole = load_motion_lora(moving, written(tmp_path, state), 1.0)
    assert len(whole.patches) == len(places)
    assert relative(run(whole), run(own)) < 1e-5 < 1e-4 < relative(plain, run(own))
    name = "mid_block.motion_modules.7.processor.proj_in_lora"
    stranger = {f"{name}.{half}.weight": torch.ones(2, 2) for half in ("up", "down")}
    path = written(tmp_path, {**state, **stranger}, "more.safetensors")
    with pytest.raises(KeyMismatchError, match=r"1 of 5 layers do not fit `model`: mid_block\.motion_modules\.7"):
        load_motion_lora(moving, path, 1.0)
    assert torch.equal(run(load_motion_lora(moving, path, 1.0, allow_partial=True)), run(whole))
    assert "mid_block.motion_modules.7" in caplog.text
    varying = load_motion_lora(moving, path, 1.0, "", "0:1, 3:0.5", allow_partial=True)
    assert relative(call(varying), call(moving)) > 1e-4


@pytest.mark.parametrize(("text", "points"), [
    ("0:0, 3:1", [(0, 0), (3, 1)]), ("1:2\n2:-1,", [(1, 2), (2, -1)]), ("2:1, 2:0.5", [(2, 1), (2, 0.5)]),
])  # fmt: skip
def test_each_frame_has_the_strength_of_the_curve_at_its_number(moving, file, text, points):
    model = load_motion_lora(moving, file, 0.8, "", text)
    assert not model.patches
    places, values = zip(*points, strict=True)
    strengths = 0.8 * np.interp(range(FRAMES), places, values)
    if text.startswith("2:1, 2"):
        strengths = [0.8, 0.8, 0.4, 0.4]
    expected = by_hand(torch.tensor(np.asarray(strengths), dtype=torch.float32))
    assert relative(call(model), expected) < 1e-5 < 1e-4 < relative(call(moving), expected)


def test_windows_and_batches_of_clips_take_the_strengths_of_their_frames(moving, file):
    model = load_motion_lora(moving, file, 1.0, "", "2:0, 6:1")
    expected = by_hand(torch.tensor([0.25, 0.5, 0.75, 1.0]))
    published = {"ad_params": {"sub_idxs": [3, 4, 5, 6], "full_length": 8}}
    window = {"context_window": SimpleNamespace(index_list=[3, 4, 5, 6], total_frames=8)}
    for extra in (published, window):
        assert relative(call(model, **extra), expected) < 1e-5
    ring = by_hand(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert relative(call(model, ad_params={"sub_idxs": [7, 6, 0, 1]}), ring) < 1e-5
    clips = with_settings(load_motion_lora(moving, file, 1.0, "", "0:1, 1:-1"), frames_per_clip=2)
    twice = by_hand(torch.tensor([1.0, -1.0]), unet_motion={"frames_per_clip": 2})
    assert relative(call(clips), twice) < 1e-5


@pytest.mark.parametrize("timestep", [999.0, 800.0, 500.0, 100.0, 0.0])
def test_each_step_has_the_strength_of_the_curve_at_its_share_of_the_sampling(moving, file, timestep):
    model = load_motion_lora(moving, file, 2.0, "0.1:0, 0.5:1, 0.9:0.2")
    strength = 2.0 * np.interp(1 - timestep / 999, [0.1, 0.5, 0.9], [0, 1, 0.2])
    found = call(model, timestep)
    assert relative(found, by_hand(float(strength), timestep)) < 1e-5
    if strength == 0:
        assert torch.equal(found, call(moving, timestep))
    both = load_motion_lora(moving, file, 2.0, "0.1:0, 0.5:1, 0.9:0.2", "0:0, 1:1")
    frames = torch.tensor([0.0, 1.0, 1.0, 1.0]) * float(strength)
    assert relative(call(both, timestep), by_hand(frames, timestep)) < 1e-5


def test_rows_of_a_batch_at_other_timesteps_have_their_own_strength(moving, file):
    model = load_motion_lora(moving, file, 1.0, "0:0, 1:1")
    torch.manual_seed(2)
    given = {**inputs(FRAMES, 8, 8), "timesteps": torch.tensor([999.0, 0.0]).repeat_interleave(FRAMES)}
    core = model.model.diffusion_model
    out = core(**given, transformer_options={**model.model_options["transformer_options"], **options()})
    torch.manual_seed(2)
    plain = core(**given, transformer_options=options())
    applied = apply_motion_lora(moving.model.diffusion_model.core, tensors())
    full = core(**given, transformer_options=options())
    remove_motion_lora(moving.model.diffusion_model.core, applied)
    assert torch.equal(out[:FRAMES], plain[:FRAMES])
    assert relative(out[FRAMES:], full[FRAMES:]) < 1e-5 < 1e-4 < relative(out[FRAMES:], plain[FRAMES:])


def steps(model):
    """x0 after each of three steps of a sampling."""
    seen = []
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    words = [[[torch.randn(1, 7, 768, generator=torch.Generator().manual_seed(n)), {}]] for n in (1, 2)]
    comfy.sample.sample(
        model, noise, 3, 2.0, "euler", "normal", *words, torch.zeros_like(noise), disable_pbar=True, seed=3,
        callback=lambda step, x0, x, total: seen.append(x0.clone()),
    )  # fmt: skip
    return seen


def test_a_sampling_turns_at_the_place_of_a_jump(moving, file):
    plain, whole = steps(moving), steps(load_motion_lora(moving, file, 0.7))
    early = steps(load_motion_lora(moving, file, 0.7, "0:1, 0.2:1, 0.2:0"))
    late = steps(load_motion_lora(moving, file, 0.7, "0:0, 0.2:0, 0.2:1"))
    assert relative(early[0], whole[0]) < 1e-5 and torch.equal(late[0], plain[0])
    results = [plain[2], whole[2], early[2], late[2]]
    assert all(relative(a, b) > 1e-5 for i, a in enumerate(results) for b in results[:i])
    assert torch.equal(steps(moving)[2], plain[2])


def test_a_curve_that_is_level_in_the_clip_gives_what_patches_give(moving, file):
    level = load_motion_lora(moving, file, 0.6, "", "0:0, 0:1")
    assert not level.patches
    assert relative(sampled(level), sampled(load_motion_lora(moving, file, 0.6))) < 1e-5
    nothing = load_motion_lora(moving, file, 0.6, "", "0:1, 0:0")
    assert torch.equal(sampled(nothing), sampled(moving))


def test_branches_chains_and_copies_keep_their_own(moving, tmp_path, file):
    other = written(tmp_path, tensors(seed=9), "zoom.safetensors")
    plain = call(moving)
    first = load_motion_lora(moving, file, 1.0, "", "0:0, 3:1")
    both = load_motion_lora(first, other, 1.0, "", "0:1, 3:0")
    names = [lora.name for lora in both.model_options["transformer_options"]["unet_motion"]["motion_loras"]]
    assert names == ["pan.safetensors", "zoom.safetensors"]
    core = apply_motion_module(sd15(), motion_module())
    apply_motion_lora(core.model.diffusion_model.core, tensors(), [0.0, 1 / 3, 2 / 3, 1.0])
    assert relative(call(first), call(core)) < 1e-5
    apply_motion_lora(core.model.diffusion_model.core, tensors(seed=9), [1.0, 2 / 3, 1 / 3, 0.0])
    assert relative(call(both), call(core)) < 1e-5 < 1e-4 < relative(call(both), call(first))
    # A constant one and a varying one stand side by side.
    mixed = load_motion_lora(first, other, 0.5)
    assert mixed.patches and relative(sampled(mixed), sampled(first)) > 1e-5
    assert torch.equal(call(moving), plain) and torch.equal(call(both.clone()), call(both))
    lora = both.model_options["transformer_options"]["unet_motion"]["motion_loras"][0]
    assert isinstance(lora, VaryingLora) and copy.deepcopy(lora) is lora


@pytest.mark.parametrize("room", [0.1, 300_000])
def test_partly_loaded_models_give_a_whole_ones_values(moving, file, monkeypatch, room):
    model = load_motion_lora(load_motion_lora(moving, file, 0.5), file, 1.0, "0:1, 1:0", "0:0, 1:1")
    whole = sampled(model)
    load = mm.LoadedModel.model_load
    mm.unload_all_models()
    monkeypatch.setattr(mm.LoadedModel, "model_load", lambda self, _=0, **named: load(self, room, **named))
    assert relative(sampled(model), whole) < 1e-5 < 1e-4 < relative(sampled(moving), whole)
    mm.unload_all_models()


def test_what_a_curve_cannot_do_is_said(moving, tmp_path, file):
    alien = written(tmp_path, {f"unet.mid_block.attentions.7.to_q.lora_{x}.weight": torch.ones(4, 4) for x in "AB"})
    for curve in ("", "0:0, 1:1"):
        with pytest.raises(KeyMismatchError, match="pan.safetensors: has layers such as .* none fits `model`"):
            load_motion_lora(moving, alien, 1.0, curve)
    q = f"unet.{SPATIAL}.to_q"
    image = written(tmp_path, {f"{q}.lora_A.weight": torch.ones(2, 32), f"{q}.lora_B.weight": torch.ones(32, 2)})
    with pytest.raises(ValueError, match=f"only motion layers take a strength that varies, but it changes {LDM}.to_q"):
        load_motion_lora(moving, image, 1.0, "0:0, 1:1")
    q = f"unet.{BLOCK}.attn1.to_q"
    dora = {f"{q}.lora_A.weight": torch.ones(2, 32), f"{q}.lora_B.weight": torch.ones(32, 2)}
    path = written(tmp_path, {**dora, f"{q}.dora_scale": torch.ones(32, 1)})
    with pytest.raises(ValueError, match=f"needs plain LoRA layers, but {BLOCK}.attn1.to_q is of another kind"):
        load_motion_lora(moving, path, 1.0, "0:0, 1:1")
    file = written(tmp_path, tensors(), "plain.safetensors")
    with pytest.raises(ValueError, match="`strength_over_frames`: found 'a', expected a frame such as 0, 12 or -1"):
        load_motion_lora(moving, file, 1.0, "", "a:1")
    with pytest.raises(ValueError, match="`strength_over_steps`: found '2', expected a share of the sampling"):
        load_motion_lora(moving, file, 1.0, "0:1, 2:0")
    late = load_motion_lora(moving, file, 1.0, "", "0:1, 3:0.5, 4:0")
    with pytest.raises(ValueError, match="4 is never reached: the clip has 4 frames, expected at most 3"):
        call(late)
    assert load_motion_lora(moving, file, 1.0, " , \n", "").patches
