"""Noise schedules by name against their closed forms, computed in exact or long arithmetic."""

import math

import numpy as np
import pytest
import torch

from unet_motion.sampling import NAMED_SCHEDULES, named_schedule, noise_ratios

N = 1000


def ratios(betas):
    product, found = 1.0, []
    for beta in betas:
        product *= 1 - beta
        found.append(math.sqrt((1 - product) / product))
    return np.array(found)


def straight(end=0.012, start=0.00085):
    return ratios(start + (end - start) * i / (N - 1) for i in range(N))


def straight_in_the_root(end=0.012, start=0.00085):
    return ratios((start**0.5 + (end**0.5 - start**0.5) * i / (N - 1)) ** 2 for i in range(N))


def cosine():
    def level(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return ratios(min(0.999, 1 - level((i + 1) / N) / level(i / N)) for i in range(N))


AVERAGE = (straight() + straight_in_the_root()) / 2
FORMS = {
    "sqrt_linear": straight(),
    "linear": straight_in_the_root(),
    "linear to 0.02": straight_in_the_root(0.02),
    "average": AVERAGE,
    "squaredcos_cap_v2": cosine(),
    "lcm": straight_in_the_root()[19::20],
    "lcm 100": straight_in_the_root()[9::10],
    "lcm sqrt_linear": straight()[19::20],
    "lcm average": AVERAGE[19::20],
}


@pytest.mark.parametrize("name", NAMED_SCHEDULES)
def test_each_schedule_is_its_closed_form(name):
    found = noise_ratios(name)
    assert found.dtype == torch.float64 and len(found) == len(FORMS[name])
    np.testing.assert_allclose(found.numpy(), FORMS[name], rtol=1e-10)
    assert (found.diff() > 0).all()
    if not name.startswith("lcm"):
        np.testing.assert_allclose(named_schedule(name, "v_prediction").noise_ratios.numpy(), FORMS[name], rtol=1e-10)


def test_names_are_these_and_others_are_refused():
    assert set(NAMED_SCHEDULES) == FORMS.keys()
    for name in ("cosine", ""):
        with pytest.raises(ValueError, match=f"noise schedule '{name}' is not known, expected one of sqrt_linear"):
            noise_ratios(name)
    with pytest.raises(ValueError, match="'lcm' is not known, expected one of sqrt_linear, linear, linear to 0.02,"):
        named_schedule("lcm")
