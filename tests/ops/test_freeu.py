"""FreeU: the filter against a Fourier transform, the factors against diffusers and against the paper's formulas."""

from types import SimpleNamespace

import diffusers.models.unets.unet_motion_model as their_module
import pytest
import torch
from diffusers.utils.torch_utils import fourier_filter

from tests.reference import (
    CONFIGS,
    SD15,
    SDXL,
    TINY,
    assert_close,
    assert_differs,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
)
from unet_motion import ForwardOptions, FreeU
from unet_motion.ops import freeu as freeu_door
from unet_motion.ops.freeu import scale_low_frequencies

FACTORS = dict(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
SHAPES = [(1, 1), (1, 2), (1, 7), (6, 1), (2, 2), (2, 3), (3, 3), (8, 8), (9, 6), (17, 19), (5, 64)]


def filter_restated(x: torch.Tensor, scale: float) -> torch.Tensor:
    """The definition in float64: scale the frequencies -1 and 0 of both axes."""
    spectrum = torch.fft.fft2(x.double())
    rows, columns = torch.tensor([-1, 0]) % x.shape[-2], torch.tensor([-1, 0]) % x.shape[-1]
    mask = torch.ones(x.shape[-2:], dtype=torch.float64)
    mask[rows[:, None], columns[None, :]] = scale
    return torch.fft.ifft2(spectrum * mask).real


def freeu_restated(resolution_idx, hidden_states, res_hidden_states, *, version="v2", **factors):
    """FreeU on one skip connection, in float64, with the signature of diffusers' `apply_freeu`.

    v2 (structure-aware): the backbone's factor rises from 1 to b with the mean over channels, normalised to 0..1
    per picture.
    """
    if resolution_idx > 1:
        return hidden_states, res_hidden_states
    b, s = (factors["b1"], factors["s1"]) if resolution_idx == 0 else (factors["b2"], factors["s2"])
    hidden = hidden_states.double().clone()
    half = hidden.shape[1] // 2
    factor = torch.full_like(hidden[:, :1], b)
    if version == "v2":
        for picture in range(hidden.shape[0]):
            mean = hidden[picture].mean(dim=0)
            factor[picture, 0] = 1 + (b - 1) * (mean - mean.min()) / (mean.max() - mean.min())
    hidden[:, :half] *= factor
    return hidden.to(hidden_states.dtype), filter_restated(res_hidden_states, s).to(res_hidden_states.dtype)


@pytest.mark.parametrize("scale", [0.0, 0.2, 0.9, 1.0, 1.7, -0.5])
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_filter_equals_fourier_transform(size, scale):
    x = torch.randn(3, 5, *size) + 0.5
    result = scale_low_frequencies(x, scale)
    assert result.dtype == x.dtype
    if scale == 0 and max(size) <= 2:
        assert result.abs().max() <= 1e-6, "all frequencies of so small a picture are scaled"
        return
    assert_close(result, filter_restated(x, scale), limit=1e-6)
    assert_close(result, fourier_filter(x, threshold=1, scale=scale), limit=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filter_leaves_its_input_alone(memory_format):
    x = torch.randn(2, 4, 6, 7).contiguous(memory_format=memory_format)
    before = x.clone()
    assert_close(scale_low_frequencies(x, 0.3), filter_restated(before, 0.3), limit=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-12), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_filter_in_other_dtypes(dtype, limit):
    x = torch.randn(2, 4, 9, 8).to(dtype)
    result = scale_low_frequencies(x, 0.2)
    assert result.dtype == dtype
    assert_close(result, filter_restated(x, 0.2), limit=limit)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(8, 8), (17, 19), (9, 6), (1, 5), (4, 1)], ids=str)
@torch.no_grad()
def test_first_version_equals_diffusers(borrowed_pair, name, size):
    config = CONFIGS[name]
    ours, theirs = borrowed_pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=size[0], width=size[1])
    plain = run_ours(ours, inputs)
    ours.enable_freeu(**FACTORS)
    theirs.enable_freeu(**FACTORS)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, plain)
    ours.disable_freeu()
    assert torch.equal(run_ours(ours, inputs), plain)


@pytest.mark.parametrize("factor", FACTORS)
@torch.no_grad()
def test_each_factor_acts_alone(borrowed_pair, factor):
    ours, theirs = borrowed_pair(SD15)
    inputs = make_inputs(SD15)
    plain = run_ours(ours, inputs)
    factors = {**dict.fromkeys(FACTORS, 1.0), factor: 0.4}
    ours.enable_freeu(**factors)
    theirs.enable_freeu(**factors)
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, plain, at_least=1e-4)


@pytest.mark.parametrize("factor", FACTORS)
@torch.no_grad()
def test_factor_of_zero_acts(borrowed_pair, factor):
    """diffusers takes a 0 for "off"; the reference is diffusers with a number that is 0 in every product."""
    ours, theirs = borrowed_pair(SDXL)
    inputs = make_inputs(SDXL)
    plain = run_ours(ours, inputs)
    ours.enable_freeu(**{**FACTORS, factor: 0.0})
    theirs.enable_freeu(**{**FACTORS, factor: 1e-30})
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, plain)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_versions_equal_their_formula(borrowed_pair, monkeypatch, name, version):
    config = CONFIGS[name]
    ours, theirs = borrowed_pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=17, width=19)
    ours.enable_freeu(**FACTORS, version=version)
    theirs.enable_freeu(**FACTORS)
    monkeypatch.setattr(
        their_module, "apply_freeu", lambda *args, **kwargs: freeu_restated(*args, version=version, **kwargs)
    )
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    other = "v1" if version == "v2" else "v2"
    assert_differs(result, run_ours(ours, inputs, options=ForwardOptions(freeu=FreeU(**FACTORS, version=other))))


@torch.no_grad()
def test_second_version_on_a_constant_map_is_finite(borrowed_pair):
    """Where the mean map is constant there is no structure: 0/0 must not reach the output."""
    ours, _ = borrowed_pair(TINY)
    inputs = make_inputs(TINY, height=1, width=1)
    result = run_ours(ours, inputs, options=ForwardOptions(freeu=FreeU(**FACTORS, version="v2")))
    assert torch.isfinite(result).all()


@torch.no_grad()
def test_for_one_call_only(borrowed_pair):
    ours, _ = borrowed_pair(TINY)
    inputs = make_inputs(TINY)
    plain = run_ours(ours, inputs)
    once = run_ours(ours, inputs, options=ForwardOptions(freeu=FreeU(**FACTORS)))
    assert torch.equal(run_ours(ours, inputs), plain)
    ours.enable_freeu(**FACTORS)
    assert torch.equal(run_ours(ours, inputs), once)
    assert torch.equal(run_ours(ours, inputs, options=ForwardOptions(freeu=None)), plain)


@pytest.mark.parametrize("version", ["v1", "v2"])
@torch.no_grad()
def test_a_tensor_turns_it_on_and_off_bit_for_bit(version):
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY)
    plain = run_ours(ours, inputs)
    always = run_ours(ours, inputs, options=ForwardOptions(freeu=FreeU(**FACTORS, version=version)))
    for active, expected in ((True, always), (False, plain)):
        freeu = FreeU(**FACTORS, version=version, active=torch.tensor([active]))
        assert torch.equal(run_ours(ours, inputs, options=ForwardOptions(freeu=freeu)), expected)
    assert_differs(always, plain)


@torch.no_grad()
def test_enabling_again_replaces_the_factors():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY)
    ours.enable_freeu(0.1, 0.1, 3.0, 3.0)
    ours.enable_freeu(*FACTORS.values())
    theirs.enable_freeu(*FACTORS.values())
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


def test_wrong_version_and_factors():
    with pytest.raises(ValueError, match="v3"):
        FreeU(**FACTORS, version="v3")
    with pytest.raises(ValueError, match="b1"):
        FreeU(**{**FACTORS, "b1": float("nan")})


def test_a_kernel_is_asked_about_every_tensor_that_it_would_read(monkeypatch):
    """The switch, too: one that lies on another device would be read from there."""
    asked = []
    monkeypatch.setattr(freeu_door, "wanted", lambda *_: True)
    monkeypatch.setattr(freeu_door, "FREEU", SimpleNamespace(takes=lambda *tensors: bool(asked.append(tensors))))
    hidden, skip, switch = torch.randn(1, 8, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor(False)
    out = freeu_door.freeu_concat(hidden, skip, FreeU(0.9, 0.2, 1.2, 1.4, active=switch), 0)
    assert torch.equal(out, torch.cat([hidden, skip], 1))
    ((first, second, third),) = asked
    assert first is hidden and second is skip and third is switch
