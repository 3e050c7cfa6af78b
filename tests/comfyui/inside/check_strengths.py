"""Strengths over frames and steps, each frame against a run with the constant: ControlNets, noise masks, FreeU."""

from __future__ import annotations

import pytest
import torch
from check_control import KINDS, controlled, controlnet, hints
from check_over_time import curve
from comfy.controlnet import StrengthType
from pack.nodes.options import FreeU
from pack.nodes.strengths import ControlStrength, MaskStrength
from sampled import models, noise, sample, text
from small import relative

VALUES = [0.0, 0.6, 1.3]
FREEU = (True, "custom", "v1", 1.5, 1.6, 0.9, 0.2)


@pytest.fixture(scope="module")
def still():
    return models(shallow=True)[1]


def varied(given, strength=1.0, values=None):
    positive, negative = ControlStrength.execute(given["positive"], given["negative"], strength, values).result
    return {"positive": positive, "negative": negative}


@pytest.fixture(scope="module")
def deep():
    """What the controls of `check_control` fit, with what it draws without them."""
    model = models()[1]
    return model, sample(model)


@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter", "ControlLora"])
def test_each_frame_has_the_strength_that_a_run_with_the_constant_has(deep, kind):
    still, plain = deep
    found = sample(still, **varied(controlled(*KINDS[kind](), images=hints(3)), values=VALUES))
    for frame, value in enumerate(VALUES):
        constant = sample(still, **controlled(*KINDS[kind](), images=hints(3), strength=value))
        assert relative(found[frame : frame + 1], constant[frame : frame + 1]) < 1e-5
        assert value == 0 or relative(found[frame : frame + 1], plain[frame : frame + 1]) > 1e-3


def test_steps_chains_and_copies_have_their_own_strength(still):
    first, second = (
        controlnet(num_res_blocks=[1] * 4, transformer_depth=[1, 1, 1, 0]),
        controlnet(24, num_res_blocks=[1] * 4, transformer_depth=[1, 1, 1, 0]),
    )
    given = controlled(first, second)
    whole, none = sample(still, **given, steps=2), sample(still, **controlled(first), steps=2)
    assert torch.equal(sample(still, **varied(given), steps=2), whole)
    assert relative(sample(still, **varied(given, 0.0), steps=2), none) < 1e-6
    off = varied(given, values=curve("0:1, 0.01:1, 0.01:0", "steps"))
    states = {}
    for name, run in (("off", off), ("on", given)):
        states[name] = []
        sample(still, **run, steps=2, callback=lambda i, x0, x, n, name=name: states[name].append(x0.clone()))
    assert torch.equal(states["off"][0], states["on"][0]) and relative(states["off"][1], states["on"][1]) > 1e-4
    twice = varied(varied(given, 0.5), values=[1.0, 0.5, 0.5])
    quarter = sample(still, **varied(given, 0.25), steps=2)
    assert relative(sample(still, **twice, steps=2)[1:], quarter[1:]) < 1e-5
    (control,), (other,) = ({id(o["control"]) for _, o in twice[name]} for name in ("positive", "negative"))
    assert control == other
    assert torch.equal(sample(still, **given, steps=2), whole)
    with pytest.raises(ValueError, match="`positive` has no ControlNet"):
        ControlStrength.execute(text(1), text(2), 1.0)


def test_strengths_that_rise_from_layer_to_layer_are_those_of_the_constant(still):
    def rising(strength):
        control = controlnet(num_res_blocks=[1] * 4, transformer_depth=[1, 1, 1, 0])
        control.strength_type = StrengthType.LINEAR_UP
        return controlled(control, strength=strength)

    found = sample(still, **varied(rising(1.0), values=[0.5, 0.8, 1.0]))
    for frame, value in enumerate([0.5, 0.8, 1.0]):
        assert relative(found[frame : frame + 1], sample(still, **rising(value))[frame : frame + 1]) < 1e-5


def test_each_frame_has_the_noise_mask_that_a_run_with_the_constant_has(still):
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:, :40] = 0.8
    values = [0.0, 0.5, 1.0]
    made = MaskStrength.execute(mask, 3, 1.0, values).result[0]
    assert torch.equal(made, mask * torch.tensor(values)[:, None, None])
    latent = noise(3, seed=9)
    found = sample(still, latent=latent, noise_mask=made, steps=2)
    for frame, value in enumerate(values):
        constant = sample(still, latent=latent, noise_mask=value * mask, steps=2)
        assert relative(found[frame : frame + 1], constant[frame : frame + 1]) < 1e-5
    assert relative(found[0], latent[0]) < 1e-5 < 1e-2 < relative(found[2], latent[2])
    assert torch.equal(MaskStrength.execute(mask[0], 2, 0.5).result[0], (0.5 * mask).expand(2, -1, -1))
    with pytest.raises(ValueError, match="`mask` holds 2 pictures, expected 1 or 3, one for each frame"):
        MaskStrength.execute(mask.expand(2, -1, -1), 3, 1.0)
    with pytest.raises(ValueError, match="`strength_curve`: found a list of 2 values, expected one for each of the 3"):
        MaskStrength.execute(mask, 3, 1.0, [1.0, 0.5])
    with pytest.raises(ValueError, match="`strength`: found a list of 2 values, expected one for each of the 3"):
        MaskStrength.execute(mask, 3, [1.0, 0.5])
    with pytest.raises(ValueError, match="`strength_curve` goes over the steps, expected one over the frames"):
        MaskStrength.execute(mask, 3, 1.0, curve("0:1, 1:0", "steps"))


def test_freeu_is_on_where_the_curve_is_half_or_more(still):
    model = still
    on = FreeU.execute(model, *FREEU, 0.0, 1.0).result[0]
    turned = FreeU.execute(model, *FREEU, 0.0, 1.0, curve("0:0.49 hold, 0.2:0.5 hold, 0.8:0", "steps")).result[0]
    states = {}
    for name, run in (("plain", model), ("on", on), ("turned", turned)):
        for start in (0, 1):
            states[name, start] = sample(run, steps=3, start_step=start, last_step=start + 1, force_full_denoise=False)
    # The shares of three steps are 0, a third and two thirds or a little more.
    assert torch.equal(states["turned", 0], states["plain", 0])
    assert torch.equal(states["turned", 1], states["on", 1])
    assert relative(states["on", 0], states["plain", 0]) > 1e-4 and relative(states["on", 1], states["plain", 1]) > 1e-4
    never = FreeU.execute(model, *FREEU, 0.5, 1.0, curve("0:1 hold, 0.4:0", "steps")).result[0]
    assert torch.equal(sample(never, steps=3), sample(model, steps=3))
    with pytest.raises(ValueError, match="`curve` goes over the frames, expected one over the steps"):
        FreeU.execute(model, *FREEU, 0.0, 1.0, curve("0:1, 3:0"))
