"""Steps as CUDA graphs: what is captured when, and that a replay gives what the call gives.

Without a CUDA device a recorder stands in that reruns the captured work on the captured inputs and fills the captured
output, as a graph does; with one, the last test captures real graphs.
"""

import sys
from contextlib import contextmanager
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from tests.reference import TINY, randomise
from tests.runtime.recorder import Recorder
from unet_motion import (
    ForwardOptions,
    FreeU,
    Hooks,
    StepGraphs,
    TextKeys,
    UNetMotionModel,
    apply_motion_lora,
    remove_motion_lora,
)
from unet_motion.forward.lora import MotionLora
from unet_motion.forward.motion_amount import MotionAmount
from unet_motion.runtime.cuda_graphs import RETRY_AFTER
from unet_motion.runtime.cuda_recorder import CudaRecorder

FRAMES = 3


class Fixed(Hooks):
    def __init__(self, word):
        self.word = word

    def replayable(self):
        return (self.word,)


@pytest.fixture
def unet():
    return randomise(UNetMotionModel(**TINY))


def inputs(seed, batch=2, side=6):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch * FRAMES, 4, side, side, generator=generator)
    return sample, torch.tensor(float(seed * 7)), torch.randn(batch, 5, 12, generator=generator)


@torch.no_grad()
def check(graphs, seed=0, options=None, batch=2, **conditioning):
    given = inputs(seed, batch)
    out = graphs(*given, FRAMES, options=options, **conditioning)
    expected = graphs.unet.forward_frames(*given, FRAMES, options=options, **conditioning)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    return out


def test_a_graph_serves_all_steps_of_one_shape(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    first = check(graphs, 1)
    kept = first.clone()
    assert not torch.allclose(check(graphs, 2), first)
    assert torch.equal(first, kept)  # a result is not overwritten by the next step
    with torch.inference_mode():
        graphs(*inputs(3), FRAMES)
    check(graphs, 4)
    assert recorder.captured == 1 and len(graphs) == 1


def test_another_shape_setting_option_or_weight_is_captured_anew(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, most=2, recorder=recorder)
    changes = [
        lambda: check(graphs, 1),
        lambda: check(graphs, 1, batch=1),
        lambda: (unet.enable_freeu(0.9, 0.2, 1.5, 1.6), check(graphs, 1)),
        lambda: (unet.enable_forward_chunking(2), check(graphs, 1)),
        lambda: (unet.set_attn_processor("math"), check(graphs, 1)),
        lambda: (unet.set_norm_scope(motion="frame"), check(graphs, 1)),
        lambda: check(graphs, 1, ForwardOptions(freeu=FreeU(0.5, 0.5, 1.2, 1.2))),
        lambda: check(graphs, 1, attention_mask=torch.tensor([[1, 1, 1, 0, 0]] * 2)),
        lambda: (setattr(unet.conv_in, "weight", torch.nn.Parameter(unet.conv_in.weight * 2)), check(graphs, 1)),
    ]
    for count, change in enumerate(changes, 1):
        change()
        assert recorder.captured == count and len(graphs) <= 2


def option_values(unet):
    """Option of a call -> values of it that compute different things."""
    path = next(name for name in unet._motion_paths if name.endswith("to_q"))
    rows, columns = unet.get_submodule(path).weight.shape
    pairs = [(torch.randn(2, columns), torch.randn(rows, 2)) for _ in range(2)]
    return {
        "freeu": [None, FreeU(0.9, 0.2, 1.5, 1.6), FreeU(0.9, 0.2, 1.5, 1.6, version="v2")],
        "attn_processors": ["sdpa", "math"],
        "forward_chunking": [None, (1, 0), (2, 0), (1, 1)],
        "resnet_norm_scope": ["frame", "clip"],
        "motion_norm_scope": ["frame", "clip"],
        "hooks": [Fixed("a"), Fixed("b")],
        "motion_amounts": [(), (MotionAmount(scale=1.5),), (MotionAmount(effect=0.5),)],
        "motion_loras": [(), *((MotionLora("pan", {path: pair}, 1.0),) for pair in pairs)],
    }


def test_no_option_of_a_call_is_left_out_of_what_a_graph_is_for(unet):
    values = option_values(unet)
    # Not captured; not used in graphs; made of another.
    elsewhere = {"frame_positions", "views", "frames_at_once", "more_motion", "text_keys", "plan"}
    assert {field.name for field in fields(ForwardOptions)} == values.keys() | elsewhere
    for name, choices in values.items():
        recorder = Recorder()
        graphs = StepGraphs(unet, most=len(choices), recorder=recorder)
        for _ in range(2):
            results = [check(graphs, 1, ForwardOptions(**{name: value})) for value in choices]
        assert recorder.captured == len(choices), name
        if name not in ("attn_processors", "forward_chunking", "hooks"):  # which compute the same, otherwise
            assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(results) for b in results[:i]), name


def test_inputs_of_one_form_under_other_names_are_other_inputs():
    unet = randomise(UNetMotionModel(**TINY, time_cond_proj_dim=5))
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    rows = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0, 1.0]])
    for _ in range(2):
        masked, conditioned = (check(graphs, 1, **{name: rows}) for name in ("attention_mask", "timestep_cond"))
    assert recorder.captured == 2 and (masked - conditioned).abs().max() > 1e-3


def test_weights_that_are_edited_in_place_act_without_a_new_capture(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    before = check(graphs, 1)
    unet.mid_block.resnets[0].conv1.weight.data.mul_(3)
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight.data.mul_(3)
    assert not torch.allclose(check(graphs, 1, ForwardOptions(text_keys=TextKeys())), before)
    assert recorder.captured == 2  # other options, and none of what is kept for them is frozen in
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v.weight.data.mul_(3)
    check(graphs, 1, ForwardOptions(text_keys=TextKeys()))
    assert recorder.captured == 2


def test_equal_options_share_a_graph(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    for _ in range(3):
        check(graphs, 1, ForwardOptions(motion_norm_scope="frame", forward_chunking=(2, 0)))
    assert recorder.captured == 1


def test_options_made_anew_in_each_step_share_a_graph_and_their_tensors_are_its_inputs(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    path = next(name for name in unet._motion_paths if name.endswith("to_q"))
    rows, columns = unet.get_submodule(path).weight.shape
    layers = {path: (torch.randn(2, columns), torch.randn(rows, 2))}

    def options(step, b=1.5, layers=layers, effect=0.5):
        freeu = FreeU(0.9, 0.2, b, 1.6, active=torch.tensor([step > 1]))
        lora = MotionLora("pan", layers, torch.linspace(0, 1, FRAMES) * step)
        amount = MotionAmount(torch.linspace(1, 2, FRAMES) * step, effect, ("up_blocks",))
        more = dict(attn_processors={"*": "sdpa"}, hooks=Fixed("a"))
        return ForwardOptions(freeu=freeu, motion_loras=(lora,), motion_amounts=(amount,), **more)

    results = [check(graphs, 1, options(step)) for step in range(4)]
    assert recorder.captured == 1
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(results) for b in results[:i])
    for other in (options(1, b=1.4), options(1, layers={path: (torch.randn(2, columns), torch.randn(rows, 2))})):
        check(graphs, 1, other)
    check(graphs, 1, replace(options(1), hooks=Fixed("b")))
    check(graphs, 1, replace(options(1), attn_processors={"*": "math"}))
    check(graphs, 1, options(1, effect=0.25))
    check(graphs, 1, options(1, effect=torch.tensor([0.0, 1.0, 0.5])[:FRAMES]))
    assert recorder.captured == 7


def test_loras_that_are_applied_are_part_of_a_graph_and_replays_follow_them(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    path = next(name for name in sorted(unet._motion_paths) if name.endswith("to_v"))
    rows, columns = unet.get_submodule(path).weight.shape
    tensors = {f"{path}.lora_A.weight": torch.randn(2, columns), f"{path}.lora_B.weight": torch.randn(rows, 2)}
    plain = check(graphs, 1)
    applied = apply_motion_lora(unet, tensors)
    whole = check(graphs, 1)
    applied.strength = 0.5
    half = check(graphs, 1)
    remove_motion_lora(unet)
    assert torch.equal(check(graphs, 1), plain) and recorder.captured == 4
    assert all((a - b).abs().max() > 1e-3 for a, b in ((plain, whole), (plain, half), (whole, half)))
    apply_motion_lora(unet, tensors, [0.0, 0.5, 1.0])
    with torch.no_grad():
        assert graphs.declines(inputs(1)[0]) == "a motion LoRA has a strength for each frame"
    check(graphs, 1)
    assert recorder.captured == 4


def test_layers_that_run_other_code_are_not_captured(unet):
    graphs = StepGraphs(unet, recorder=Recorder())
    layer = unet.mid_block.resnets[0].conv1
    handle = layer.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        assert graphs.declines(inputs(1)[0]) == "a Conv2d layer runs code that is not its own"
    handle.remove()
    layer.forward = type(layer).forward.__get__(layer)
    check(graphs, 1)
    assert not len(graphs)
    del layer.forward
    check(graphs, 1, ForwardOptions(hooks=Hooks()))
    assert not len(graphs)
    check(graphs, 1)
    assert len(graphs) == 1


def test_what_cannot_be_captured_runs_as_it_is_and_says_why(unet):
    graphs = StepGraphs(unet)
    sample = inputs(0)[0]
    with torch.no_grad():
        assert graphs.declines(sample) == "there are no CUDA graphs on cpu"
    check(graphs, 1)
    graphs = StepGraphs(unet, recorder=Recorder())
    assert graphs.declines(sample) == "gradients are asked for"
    assert graphs(*inputs(1), FRAMES).requires_grad and not len(graphs)
    options = ForwardOptions(frame_positions=torch.tensor([2, 0, 1]))
    check(graphs, 1, options)
    with torch.no_grad():
        assert "frame_positions" in graphs.declines(sample, options)
    with pytest.raises(ValueError, match="`most` is 0"):
        StepGraphs(unet, most=0)


def test_a_failed_capture_is_told_the_step_runs_and_it_is_tried_again_later(unet):
    recorder, tries = Recorder(), []

    def fails(work, device):
        tries.append(step)
        if len(tries) <= 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return recorder(work, device)

    graphs = StepGraphs(unet, recorder=fails)
    for step in range(60):
        if step in (0, RETRY_AFTER + 1):
            with pytest.warns(UserWarning, match="could not be captured as a CUDA graph.*not permitted"):
                check(graphs, step)
        else:
            check(graphs, step)
        with torch.no_grad():
            waits = graphs.declines(inputs(0)[0])
        assert (waits is None) == (step >= 3 * RETRY_AFTER + 1 or step == RETRY_AFTER)
        assert waits in (None, "an earlier capture failed; it is tried again later")
    assert tries == [0, RETRY_AFTER + 1, 3 * RETRY_AFTER + 2] and len(graphs) == 1
    del tries[:]
    graphs.clear()
    with pytest.warns(UserWarning, match="the next 16 too"):
        check(graphs, 1)
    graphs.clear()  # other memory: no more waiting
    with pytest.warns(UserWarning, match="the next 16 too"):
        check(graphs, 1)


def test_two_devices_have_a_graph_each_captured_on_the_device_of_the_sample(unet):
    """The meta device stands for a second card: it computes no values, and its tensors lie elsewhere."""
    devices = []

    def recorder(work, device):
        devices.append(device)
        return Recorder()(work, device)

    twin = UNetMotionModel(**TINY).to("meta").eval().requires_grad_(False)
    here, there = StepGraphs(unet, recorder=recorder), StepGraphs(twin, recorder=recorder)
    with torch.no_grad():
        for seed in (1, 2):
            check(here, seed)
            assert there(*(t.to("meta") for t in inputs(seed)), FRAMES).device.type == "meta"
        moved = StepGraphs(unet, recorder=recorder)
        check(moved, 1)
        unet.to("meta")
        moved(*(t.to("meta") for t in inputs(1)), FRAMES)
    assert [device.type for device in devices] == ["cpu", "meta", "cpu", "meta"] and len(moved) == 2


class Card:
    """What `torch.cuda` is asked for, with the device that was current then."""

    def __init__(self, monkeypatch):
        self.current, self.seen, self.pools, self.broken = "cuda:0", [], 0, False
        names = ("device", "stream", "graph", "Stream", "CUDAGraph", "graph_pool_handle", "current_stream")
        for name in names:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    @contextmanager
    def device(self, device):
        before, self.current = self.current, str(device)
        yield
        self.current = before

    @contextmanager
    def stream(self, stream):
        self.seen.append(("warm", stream.device))
        yield

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        yield
        self.seen.append((graph.device, stream.device, pool, capture_error_mode))
        if self.broken:
            raise RuntimeError("the stream was invalidated")

    def _made(self, *_, **__):
        return SimpleNamespace(device=self.current, wait_stream=lambda _: None, replay=lambda: None)

    Stream = CUDAGraph = current_stream = _made

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools


def test_cudas_recorder_captures_on_the_device_it_is_told_and_leaves_other_threads_alone(monkeypatch):
    card, recorder = Card(monkeypatch), CudaRecorder()
    one, two = torch.device("cuda", 0), torch.device("cuda", 1)
    ran = []

    def work():
        ran.append(card.current)
        return torch.zeros(1)

    for device in (two, one, two):
        recorder(work, device)
    captures = [entry for entry in card.seen if len(entry) == 4]
    local = "thread_local"
    assert captures == [("cuda:1", "cuda:1", 1, local), ("cuda:0", "cuda:0", 2, local), ("cuda:1", "cuda:1", 1, local)]
    assert ran == ["cuda:1"] * 3 + ["cuda:0"] * 3 + ["cuda:1"] * 3 and card.current == "cuda:0"
    # A pool whose capture broke off cannot be recorded into again.
    card.broken = True
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder(work, two)
    card.broken = False
    recorder(work, two)
    assert [entry[2] for entry in card.seen if len(entry) == 4][-2:] == [1, 3]


def test_a_replaced_layer_and_a_weight_that_came_later_are_seen(unet):
    recorder = Recorder()
    graphs = StepGraphs(unet, recorder=recorder)
    check(graphs, 1)
    old = unet.conv_out
    unet.conv_out = torch.nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1).requires_grad_(False)
    check(graphs, 1)
    assert recorder.captured == 2
    unet.conv_out.bias = None
    check(graphs, 1)
    assert recorder.captured == 3
    table = next(module for name, module in unet.named_modules() if name.endswith(".pos_embed"))
    table.pe = table.pe * 2
    check(graphs, 1)
    assert recorder.captured == 4
    unet.conv_out.register_forward_hook(lambda *_: None)  # of the new layer
    with torch.no_grad():
        assert graphs.declines(inputs(1)[0]) == "a Conv2d layer runs code that is not its own"


def test_the_host_does_little_for_a_replay_of_sd15():
    """A replay that does nothing, so that what is left is the host's part, in calls: it asks each part of the network
    and each weight twice at most, 5,500 calls in all, which take 0.6 ms."""
    unet = UNetMotionModel(cross_attention_dim=768, device="meta").half().to_empty(device="cpu").requires_grad_(False)
    out = torch.zeros(4, 4, 8, 8, dtype=torch.float16)
    graphs = StepGraphs(unet, recorder=lambda work, device: (lambda: None, out))
    given = torch.zeros_like(out), 481, torch.zeros(2, 77, 768, dtype=torch.float16), 2
    options = ForwardOptions(freeu=FreeU(0.9, 0.2, 1.5, 1.6), attn_processors={"*motion_modules*": "sdpa"})
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    with torch.inference_mode():
        graphs(*given, options=options)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            graphs(*given, options=options)
        finally:
            sys.setprofile(before)
    asked = len(list(unet.modules())) + len(list(unet.parameters()))
    assert len(graphs) == 1 and 0 < calls < 2.5 * asked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_graphs_give_what_the_calls_give(unet):
    graphs = StepGraphs(unet.cuda())
    with torch.inference_mode():
        for seed in range(4):
            given = [t.cuda() for t in inputs(seed)]
            expected = unet.forward_frames(*given, FRAMES)
            torch.testing.assert_close(graphs(*given, FRAMES), expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1 and graphs._failures == 0
