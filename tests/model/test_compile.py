"""torch.compile of a whole UNet as one graph: as many frames, clips and pixels as one likes, and what it computes is
what the model computes."""

from __future__ import annotations

import pytest
import torch

from tests.formats.files import randomise, relative_error
from unet_motion import ForwardOptions, UNetMotionModel
from unet_motion.forward.lora import MotionLora

SMALL = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlockMotion",),
    "up_block_types": ("UpBlockMotion",),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "use_motion_mid_block": False,
    "mid_block_layers": 0,
}
"""Each kind of layer, hardly one twice: a compiler takes its time for each."""
LAYER = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def unet():
    return randomise(UNetMotionModel(**SMALL, norm_num_groups=16))


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def call(model, clips, frames, size=(8, 8), per_frame=False, **options):
    generator = torch.Generator().manual_seed(100 * clips + frames)
    sample = torch.randn(clips, 4, frames, *size, generator=generator)
    rows = clips * frames if per_frame else clips
    text, timestep = torch.randn(rows, 5, 24, generator=generator), torch.full((rows,), 300)
    with torch.no_grad():
        return model(sample, timestep, text, options=ForwardOptions(**options)).sample


def compare(unet, calls, **how):
    """Calls of the compiled UNet equal plain ones; gives the number of compilations after each."""
    graphs, numbers = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(unet, fullgraph=True, **{"backend": backend, **how})
    for given in calls:
        expected = call(unet, **given)
        assert relative_error(call(compiled, **given), expected) < 2e-5, given
        numbers.append(len(graphs))
    return numbers


@pytest.mark.parametrize("scopes", [("frame", "clip"), ("clip", "frame")])
def test_the_number_of_frames_changes_at_batch_one(scopes):
    other = randomise(UNetMotionModel(**SMALL, resnet_norm_scope=scopes[0], motion_norm_scope=scopes[1]))
    numbers = compare(other, [dict(clips=1, frames=frames) for frames in (5, 6, 3)])
    assert numbers[1] == numbers[2], numbers


def test_sizes_are_symbols_from_the_first_call_on(unet):
    """No two sizes are equal in the first call: torch takes those for the same symbol."""
    calls = [dict(clips=1, frames=3, size=(8, 12)), dict(clips=1, frames=7, size=(12, 16)), dict(clips=2, frames=3)]
    numbers = compare(unet, calls, dynamic=True)
    assert numbers[0] == numbers[1], numbers


def test_text_timesteps_and_a_lora_per_frame_with_symbols(unet):
    generator = torch.Generator().manual_seed(1)
    layers = {LAYER: (torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator))}
    calls = []
    for frames in (3, 7, 6):
        lora = MotionLora("pan", layers, torch.linspace(0, 1, frames))
        calls.append(dict(clips=2, frames=frames, per_frame=True, motion_loras=[lora], size=(8, 12)))
        without = {**calls[-1], "motion_loras": []}
        assert relative_error(call(unet, **without), call(unet, **calls[-1])) > 1e-4
    numbers = compare(unet, calls, dynamic=True)
    assert numbers[0] == numbers[2], numbers


def test_a_call_chooses_processors_by_patterns_in_one_graph(unet):
    chosen = dict(attn_processors={"*attn[12]": "math", "*motion_module?.*": "sdpa"})
    graphs = []
    options = ForwardOptions(**chosen)
    step = torch.compile(unet, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    sample, text = torch.randn(1, 4, 3, 8, 12), torch.randn(1, 5, 24)
    with torch.no_grad():
        compiled = [step(sample, 300, text, options=options).sample for _ in range(3)]
        expected = unet(sample, 300, text, options=options).sample
    assert len(graphs) == 1 and all(relative_error(out, expected) < 2e-5 for out in compiled)


def test_one_frame_where_kernels_run_as_they_were_traced(unet):
    compare(unet, [dict(clips=1, frames=1), dict(clips=1, frames=4)], backend="aot_eager")


def test_what_does_not_fit_is_refused_as_ever(unet):
    sample, text = torch.randn(2, 4, 3, 8, 8), torch.randn(4, 5, 24)
    for rows, timestep in ((text, torch.tensor([1])), (text[:2], torch.tensor([1, 2, 3]))):
        with pytest.raises(ValueError, match=r"expected (1, )?2 \(one per clip\) or 6 \(one per frame\)"):
            unet(sample, timestep, rows)
