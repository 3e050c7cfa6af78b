"""LoRAs of the library against plain arithmetic on the weights, for every naming."""

import json

import pytest
import torch

from tests.formats.files import randomise, relative_error, same_state, write
from unet_motion import ForwardOptions, UNetMotionModel, apply_motion_lora, load_motion_lora, remove_motion_lora
from unet_motion.cli import main
from unet_motion.formats import FileFormatError, KeyMismatchError
from unet_motion.lora.apply import layer_names
from unet_motion.lora.names import layer_of, original_motion, strip

MOTION = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1"
ORIGINAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
MODULE = "down_blocks.0.motion_modules.0.temporal_transformer"
DIFFUSERS = "down_blocks.0.motion_modules.0"
HOTSHOT = "down_blocks.0.temporal_attentions.0.transformer_blocks.0"
LDM = "input_blocks.1.1.transformer_blocks.0.attn1"


def flat(name):
    return name.replace(".", "_")


OUT = f"{MOTION}.to_out.0"
_PLACES = {
    "original": (f"{ORIGINAL}.processor.to_q_lora.", "down", "up", f"{MOTION}.to_q"),
    "original in training": (f"module.{ORIGINAL}.processor.to_out_lora.", "down", "up", OUT),
    "original with .0": (f"{ORIGINAL}.processor.to_out.0_lora.", "down", "up", OUT),
    "diffusers": (f"unet.{MOTION}.processor.to_v_lora.", "down", "up", f"{MOTION}.to_v"),
    "peft": (f"unet.{MOTION}.to_k.", "lora_A", "lora_B", f"{MOTION}.to_k"),
    "peft without .0": (f"{MOTION}.to_out.", "lora_A.pan", "lora_B.pan", OUT),
    "kohya": (f"lora_unet_{flat(OUT)}.", "lora_down", "lora_up", OUT),
    "a1111": (f"lora_unet_{flat(ORIGINAL)}_to_q.", "lora_down", "lora_up", f"{MOTION}.to_q"),
    "motion director, spatial": (f"unet.{SPATIAL}.processor.to_q_lora.", "down", "up", f"{SPATIAL}.to_q"),
    "motion director's port, attention": (f"{ORIGINAL}.to_out.processor.0_lora.", "down", "up", OUT),
    "motion director's port, queries": (f"{ORIGINAL}.processor.to_q_lora.", "down", "up", f"{MOTION}.to_q"),
    "motion director's port, projection": (f"{MODULE}.processor.proj_in_lora.", "down", "up", f"{DIFFUSERS}.proj_in"),
    "hotshot": (f"{HOTSHOT}.attention_blocks.1.to_k.", "lora_A", "lora_B", f"{MOTION[:-5]}attn2.to_k"),
    "anything between": (f"unet.{MOTION}.wrapped.inner.to_q.", "lora_down", "lora_up", f"{MOTION}.to_q"),
    "latent diffusion": (f"lora_unet_{flat(LDM)}_to_q.", "lora_down", "lora_up", f"{SPATIAL}.to_q"),
}
STYLES = {
    style: (f"{layer}{down}.weight", f"{layer}{up}.weight", path) for style, (layer, down, up, path) in _PLACES.items()
}


@pytest.fixture(scope="module")
def unet():
    return randomise(
        UNetMotionModel(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            cross_attention_dim=24,
        )
    )


def pair(rank=3, width=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)


def run(unet, frames=3, **options):
    generator = torch.Generator().manual_seed(4)
    sample, text = torch.randn(1, 4, frames, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        return unet(sample, 300, text, options=ForwardOptions(**options)).sample


def merged(unet, path, factor, down, up):
    other = _fresh(unet)
    weight = other.get_submodule(path).weight
    weight.data = weight.data + factor * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return other


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("style", STYLES)
def test_every_naming_acts_as_arithmetic_does_and_leaves_exactly(unet, tmp_path, style, alpha):
    down_name, up_name, path = STYLES[style]
    down, up = pair()
    state = {down_name: down, up_name: up}
    if alpha is not None:
        layer = down_name.replace("_lora.down.weight", "").replace(".lora_down.weight", "")
        layer = layer.replace(".lora_A.pan.weight", "").replace(".lora_A.weight", "")
        state[f"{layer}.alpha"] = torch.tensor(alpha)
    before, weights = run(unet), {k: v.clone() for k, v in unet.state_dict().items()}
    applied = apply_motion_lora(unet, write(tmp_path / "pan.safetensors", state), 0.5)
    assert (applied.matched, applied.unmatched) == ([path], [])
    expected = run(merged(unet, path, 0.5 * (1 if alpha is None else alpha / 3), down, up))
    assert relative_error(run(unet), expected) < 1e-5 < 1e-4 < relative_error(before, expected)
    assert same_state(unet.state_dict(), weights)
    remove_motion_lora(unet, applied)
    assert torch.equal(run(unet), before)


def test_several_add_up_each_with_its_own_rank_and_strength(unet):
    first, second = pair(2), pair(7, seed=2)
    names = STYLES["peft"][:2], STYLES["original"][:2]
    before = run(unet)
    applied = [
        apply_motion_lora(unet, dict(zip(name, tensors, strict=True)), strength)
        for name, tensors, strength in zip(names, (first, second), (0.7, -0.4), strict=True)
    ]
    both = merged(merged(_fresh(unet), STYLES["peft"][2], 0.7, *first), STYLES["original"][2], -0.4, *second)
    assert relative_error(run(unet), run(both)) < 1e-5
    applied[0].strength = 0.0
    assert relative_error(run(unet), run(merged(_fresh(unet), STYLES["original"][2], -0.4, *second))) < 1e-5
    remove_motion_lora(unet)
    assert torch.equal(run(unet), before)
    with pytest.raises(ValueError, match="does not act on this UNet"):
        remove_motion_lora(unet, applied[0])


def _fresh(unet):
    """The same weights in a model without LoRAs."""
    other = UNetMotionModel.from_config(unet.config)
    other.load_state_dict(unet.state_dict())
    return other.eval()


def test_fused_projections_keep_the_lora(unet):
    with_lora = _fresh(unet)
    apply_motion_lora(with_lora, dict(zip(STYLES["peft"][:2], pair(), strict=True)))
    plain = run(with_lora)
    with_lora.fuse_qkv_projections()
    assert relative_error(run(with_lora), plain) < 1e-5 < 1e-4 < relative_error(run(unet), plain)


def test_a_strength_per_frame_scales_the_change_of_each_frame(unet):
    model, seen = _fresh(unet), []
    down, up = pair()
    layer = model.get_submodule(OUT)
    applied = apply_motion_lora(model, dict(zip(STYLES["kohya"][:2], (down, up), strict=True)), [0.0, 0.5, 2.0])
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    run(model)
    tokens, out = seen[0]
    for frame, strength in enumerate((0.0, 0.5, 2.0)):
        weight = layer.weight + strength * up @ down
        expected = torch.nn.functional.linear(tokens[:, frame], weight, layer.bias)
        assert relative_error(out[:, frame], expected) < 1e-5
    applied.strength = torch.full((3,), 0.5)
    assert relative_error(run(model), run(merged(_fresh(unet), OUT, 0.5, down, up))) < 1e-5
    with pytest.raises(ValueError, match="`strength` has 3 numbers, expected one for each of the 4 frames"):
        run(model, frames=4)
    spatial = dict(zip(STYLES["motion director, spatial"][:2], pair(), strict=True))
    with pytest.raises(ValueError, match="one number per frame, but .* is no motion layer"):
        apply_motion_lora(model, spatial, [1.0, 1.0])


def test_convolutions_of_spatial_loras(unet):
    model, path = _fresh(unet), "down_blocks.0.resnets.0.conv1"
    down, up = torch.randn(3, 32, 3, 3), torch.randn(32, 3, 1, 1)
    state = {f"lora_unet_{flat(path)}.lora_down.weight": down, f"lora_unet_{flat(path)}.lora_up.weight": up}
    apply_motion_lora(model, state, 0.1)
    assert relative_error(run(model), run(merged(_fresh(unet), path, 0.1, down, up))) < 1e-5


@pytest.mark.parametrize("rslora", [False, True])
def test_pefts_folder_with_its_configuration(unet, tmp_path, rslora):
    model = _fresh(unet)
    down, up = pair(4)
    state = {f"base_model.model.{MOTION}.to_q.lora_A.weight": down, f"base_model.model.{MOTION}.to_q.lora_B.weight": up}
    write(tmp_path / "adapter_model.safetensors", state)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "use_rslora": rslora}))
    apply_motion_lora(model, tmp_path)
    assert (
        relative_error(run(model), run(merged(_fresh(unet), f"{MOTION}.to_q", 4.0 if rslora else 2.0, down, up))) < 1e-5
    )


def test_layers_that_do_not_fit_are_named_and_none_is_an_error(unet, tmp_path):
    model = _fresh(unet)
    good = dict(zip(STYLES["peft"][:2], pair(), strict=True))
    odd = {f"unet.mid_block.motion_modules.9.to_q.lora_{x}.weight": torch.ones(4, 4) for x in "AB"}
    half = {f"unet.{MOTION}.to_q.lora_A.weight": torch.ones(4, 32)}
    path = write(tmp_path / "a.safetensors", {**good, **odd, **half})
    words = r"2 of 3 layers do not fit the UNet: .*attn1\.to_q, mid_block\.motion_modules\.9.*; .*`allow_partial`"
    for load in (apply_motion_lora, load_motion_lora):
        with pytest.raises(KeyMismatchError, match=words):
            load(model, path)
    assert torch.equal(run(model), run(unet))
    applied = apply_motion_lora(model, path, allow_partial=True)
    assert applied.unmatched == [f"{MOTION}.to_q", "mid_block.motion_modules.9.to_q"]
    (matched,) = applied.matched
    assert relative_error(run(model), run(merged(_fresh(unet), matched, 1.0, *pair()))) < 1e-5
    assert set(load_motion_lora(model, path, allow_partial=True).layers) == {matched}
    remove_motion_lora(model)
    with pytest.raises(KeyMismatchError, match=r"b\.safetensors: has layers such as mid_block\..* none fits the UNet"):
        apply_motion_lora(model, write(tmp_path / "b.safetensors", odd))
    wide = dict(zip(STYLES["peft"][:2], (torch.ones(3, 64), torch.ones(64, 3)), strict=True))
    with pytest.raises(KeyMismatchError, match="none fits the UNet"):
        apply_motion_lora(model, wide)
    with pytest.raises(FileFormatError, match="is empty"):
        (tmp_path / "c.safetensors").write_bytes(b"")
        apply_motion_lora(model, tmp_path / "c.safetensors")
    for strength in (float("nan"), [], "much"):
        with pytest.raises((ValueError, TypeError)):
            apply_motion_lora(model, good, strength)


def test_layers_that_fit_are_applied_wherever_the_others_stand(unet, tmp_path):
    names = {f"unet.{MOTION}.to_k": 1, f"unet.{MOTION}.to_v": 2}
    odd = ("unet.conv_in.motion_modules.9.to_q", f"unet.{MOTION}.to_q.wide", "unet.mid_block.motion_modules.9.to_q")
    layers = {name: pair(seed=seed) for name, seed in names.items()} | {name: pair(2, 4) for name in odd}
    for order in (sorted(layers), sorted(layers, reverse=True)):
        state = {f"{name}.lora_{x}.weight": t for name in order for x, t in zip("AB", layers[name], strict=True)}
        for lora in (state, write(tmp_path / "a.safetensors", state)):
            model, expected = _fresh(unet), _fresh(unet)
            for name, seed in names.items():
                expected = merged(expected, name.removeprefix("unet."), 1.0, *pair(seed=seed))
            applied = apply_motion_lora(model, lora, allow_partial=True)
            assert set(applied.matched) == {name.removeprefix("unet.") for name in names}
            assert relative_error(run(model), run(expected)) < 1e-5
            assert load_motion_lora(model, lora, allow_partial=True).layers.keys() == set(applied.matched)


def test_the_command_line_puts_loras_on_the_bundled_model(tmp_path, capsys):
    from unet_motion.bundled import load_bundled

    core = load_bundled().unet
    path = next(p for p, m in core.named_modules() if ".motion_modules." in p and p.endswith("attn1.to_q"))
    width = core.get_submodule(path).weight.shape[0]
    file = write(tmp_path / "a.safetensors", {f"unet.{path}.lora_A.weight": torch.ones(2, width),
                                              f"unet.{path}.lora_B.weight": torch.ones(width, 2)})  # fmt: skip
    common = ["generate", "a red star", "--frames", "2", "--steps", "1", "--scale", "1", "--out"]
    clips = []
    for name, more in (("plain", []), ("zero", [f"{file}:0"]), ("full", [str(file)]), ("half", [f"{file}:0.5"])):
        assert main([*common, str(tmp_path / f"{name}.png"), *(["--motion-lora", *more] if more else [])]) == 0
        from PIL import Image

        clips.append(Image.open(tmp_path / f"{name}.png").tobytes())
    assert clips[0] == clips[1] and len(set(clips)) == 3
    assert main([*common, str(tmp_path / "x.png"), "--motion-lora", str(tmp_path / "none.safetensors:1")]) == 2
    assert "none.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("leaf", ["ff.net.0.proj", "ff.net.2", "attn2.to_v"])
@pytest.mark.parametrize("place", ["motion_modules", "attentions"])
def test_every_layer_of_a_transformer_block_takes_a_lora(unet, place, leaf):
    model, path = _fresh(unet), f"down_blocks.0.{place}.0.transformer_blocks.0.{leaf}"
    rows, columns = model.get_submodule(path).weight.shape
    down, up = torch.randn(3, columns), torch.randn(rows, 3)
    plain = run(model)
    apply_motion_lora(model, {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}, 0.1)
    assert relative_error(run(model), run(merged(_fresh(unet), path, 0.1, down, up))) < 1e-5
    assert relative_error(run(model), plain) > 1e-4


def director_name(path):
    """What MotionDirector's port for AnimateDiff calls a layer: `processor` stands before its third-last part."""
    *before, last = original_motion(path).split(".")
    return ".".join([*before, "processor", last]) + "_lora"


def spelled(path):
    """One layer as each of the trainers calls it."""
    original = original_motion(path)
    short = path.replace(".to_out.0", ".to_out")
    return [
        f"unet.{path}.lora_A", f"{short}.lora_down", f"base_model.model.{path}.lora_linear_layer.down",
        f"lora_unet_{flat(path)}.lora_down", f"lycoris_{flat(original)}.lora_down",
        f"lora_unet_{flat(short)}.lora_down", f"module.{original}.lora.down", f"{director_name(path)}.down",
    ]  # fmt: skip


def test_every_layer_is_found_under_every_name_and_no_other_is(unet):
    names = layer_names(unet)
    paths = [path for path, module in unet.named_modules() if getattr(module, "weight", torch.ones(1)).dim() > 1]
    assert len(paths) > 100
    for path in paths:
        for key in spelled(path) if ".motion_modules." in path else spelled(path)[:4]:
            assert names.find(layer_of(strip(f"{key}.weight"))) == path, key


def test_a_whole_motion_lora_of_motion_directors_port_is_applied_whole(unet, tmp_path):
    model, other, state = _fresh(unet), _fresh(unet), {}
    paths = [
        path for path, module in unet.named_modules()
        if ".motion_modules." in path and isinstance(module, torch.nn.Linear)
    ]  # fmt: skip
    for i, path in enumerate(paths):
        weight = other.get_submodule(path).weight
        generator = torch.Generator().manual_seed(i)
        down = 0.1 * torch.randn(2, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], 2, generator=generator)
        weight.data = weight + up @ down
        state |= {f"{director_name(path)}.down.weight": down, f"{director_name(path)}.up.weight": up}
    applied = apply_motion_lora(model, write(tmp_path / "director.safetensors", state))
    assert (sorted(applied.matched), applied.unmatched) == (sorted(paths), [])
    assert relative_error(run(model), run(other)) < 1e-5 < 1e-2 < relative_error(run(unet), run(other))


@pytest.mark.parametrize(
    "name",
    [
        f"{MOTION}.processor.to_k_ip", f"control_model.{LDM}.to_q", f"text_encoder.{MOTION}.to_q",
        f"{MOTION}.to_q.extra", f"{MOTION}.9.to_q",
        "down_blocks.7.motion_modules.0.transformer_blocks.0.attn1.to_q", "mid_block.motion_modules.0.attn1.to_q",
        "down_blocks.0.motion_modules.0.transformer_blocks.0.to_q",
    ],
)  # fmt: skip
def test_a_name_of_another_layer_or_model_means_none(unet, name):
    assert layer_names(unet).find(name) is None


def test_two_names_for_one_layer_are_refused(unet):
    both = dict(zip(STYLES["peft"][:2], pair(), strict=True))
    for half, tensor in zip(("down", "up"), pair(), strict=True):
        both[f"{MOTION}.processor.to_k_lora.{half}.weight"] = tensor
    with pytest.raises(FileFormatError, match=r"for the layer .*attn1\.to_k, expected one of them"):
        apply_motion_lora(unet, both)


def test_the_command_line_refuses_a_lora_that_fits_in_part_unless_it_may(tmp_path, capsys):
    from unet_motion.bundled import load_bundled

    path = next(p for p, _ in load_bundled().unet.named_modules() if ".motion_modules." in p and p.endswith("to_q"))
    width = load_bundled().unet.get_submodule(path).weight.shape[0]
    state = {f"unet.{path}.lora_A.weight": torch.ones(2, width), f"unet.{path}.lora_B.weight": torch.ones(width, 2)}
    state |= {f"unet.up_blocks.9.motion_modules.0.proj_in.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    file = write(tmp_path / "a.safetensors", state)
    command = ["generate", "a red star", "--frames", "2", "--steps", "1", "--scale", "1", "--motion-lora", str(file)]
    assert main([*command, "--out", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr().err
    assert "1 of 2 layers do not fit the UNet: up_blocks.9.motion_modules.0.proj_in" in said and said.count("\n") == 1
    assert main([*command, "--allow-partial", "--out", str(tmp_path / "a.png")]) == 0
    assert "1 layers do not fit the model and are left out: up_blocks.9" in capsys.readouterr().err
