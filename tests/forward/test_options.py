"""Options travel with the call: one model, many callers, no interference. Forward chunking."""

import copy
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
from unet_motion.model.transformer import FeedForward
from unet_motion.ops.attention.processors import MathProcessor


class Sharper(MathProcessor):
    """Attention at another temperature: a processor whose use shows in the output."""

    name = "sharper"

    def attend(self, query, key, value, mask, scale):
        return super().attend(query, key, value, mask, scale * 3)


def many_options():
    return [
        ForwardOptions(),
        ForwardOptions(freeu=FreeU(0.9, 0.2, 1.5, 1.6)),
        ForwardOptions(freeu=FreeU(0.1, 0.5, 0.7, 2.0, version="v2"), attn_processors="sliced"),
        ForwardOptions(attn_processors={"*.motion_modules.*": Sharper()}, forward_chunking=(2, 0)),
        ForwardOptions(attn_processors=Sharper(), motion_norm_scope="frame"),
        ForwardOptions(resnet_norm_scope="clip", frame_positions=torch.tensor([4, 2, 9])),
    ]


@torch.no_grad()
def test_threads_with_different_options_do_not_interfere():
    ours, _ = pair(SD15)
    options = many_options()
    inputs = [make_inputs(SD15, height=9, width=7, seed=i) for i in range(len(options))]
    alone = [run_ours(ours, inputs[i], options=options[i]) for i in range(len(options))]
    for i in range(1, len(options)):
        assert_differs(alone[i], run_ours(ours, inputs[i]))

    results, failures = {}, []
    start = threading.Barrier(len(options))

    def work(i):
        try:
            with torch.no_grad():
                start.wait()
                results[i] = [run_ours(ours, inputs[i], options=options[i]) for _ in range(4)]
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(options))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    for i, expected in enumerate(alone):
        for result in results[i]:
            assert_close(result, expected, limit=1e-6, what=f"options {i}")


def snapshot(model):
    """Every plain attribute of every module."""
    state = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and not isinstance(value, torch.Tensor):
                state[path, name] = repr(value)
    return state


@torch.no_grad()
def test_a_call_leaves_nothing_on_the_model():
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY)
    plain = run_ours(ours, inputs)
    before, keys = snapshot(ours), list(ours.state_dict())
    processors = {path: repr(p) for path, p in ours.attn_processors.items()}
    config = ours.config.to_dict()
    for options in many_options():
        run_ours(ours, inputs, options=options)
        assert torch.equal(run_ours(ours, inputs), plain)
    assert snapshot(ours) == before
    assert list(ours.state_dict()) == keys
    assert {path: repr(p) for path, p in ours.attn_processors.items()} == processors
    assert ours.config.to_dict() == config


@torch.no_grad()
def test_options_override_every_default():
    """A model whose defaults are all changed gives the plain result when the options say so."""
    ours, _ = pair(SD15)
    inputs = make_inputs(SD15)
    plain = run_ours(ours, inputs)
    ours.enable_freeu(0.9, 0.2, 1.5, 1.6)
    ours.set_attn_processor(Sharper())
    ours.set_norm_scope(resnet="clip", motion="frame")
    ours.enable_forward_chunking(2)
    assert_differs(run_ours(ours, inputs), plain)
    options = ForwardOptions(
        freeu=None, attn_processors="auto", forward_chunking=None, resnet_norm_scope="frame", motion_norm_scope="clip"
    )
    assert_close(run_ours(ours, inputs, options=options), plain, limit=1e-6)


@torch.no_grad()
def test_options_left_out_keep_the_defaults():
    ours, _ = pair(SD15)
    inputs = make_inputs(SD15)
    ours.enable_freeu(0.9, 0.2, 1.5, 1.6)
    ours.set_attn_processor(Sharper())
    assert torch.equal(run_ours(ours, inputs, options=ForwardOptions()), run_ours(ours, inputs))


@torch.no_grad()
def test_one_options_object_serves_two_models():
    first, _ = pair(TINY, seed=0)
    second, _ = pair(SD15, seed=1)
    options = ForwardOptions(attn_processors={"*.motion_modules.*": Sharper()})
    expected = [
        run_ours(model, make_inputs(config), options=ForwardOptions(attn_processors={"*.motion_modules.*": Sharper()}))
        for model, config in ((first, TINY), (second, SD15))
    ]
    assert torch.equal(run_ours(first, make_inputs(TINY), options=options), expected[0])
    assert torch.equal(run_ours(second, make_inputs(SD15), options=options), expected[1])


@torch.no_grad()
def test_copied_model_has_settings_and_weights_of_its_own():
    ours, _ = pair(TINY)
    inputs = make_inputs(TINY)
    ours.set_attn_processor(Sharper())
    ours.enable_freeu(0.9, 0.2, 1.5, 1.6)
    expected = run_ours(ours, inputs)
    copied = copy.deepcopy(ours)
    assert torch.equal(run_ours(copied, inputs), expected)
    copied.set_default_attn_processor()
    copied.disable_freeu()
    changed = run_ours(copied, inputs)
    assert_differs(changed, expected)
    for parameter in copied.parameters():
        parameter.mul_(0.9)
    assert_differs(run_ours(copied, inputs), changed)
    assert torch.equal(run_ours(ours, inputs), expected)


# forward chunking


class LargestHidden(TorchDispatchMode):
    """The most rows that any matrix product to 8 x `width` columns (the feed-forward's inner layer) had."""

    def __init__(self, widths):
        super().__init__()
        self.columns = {8 * width for width in widths}
        self.rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # Attention is among them in some versions, and gives more than its result.
        if func.overloadpacket in flop_registry and isinstance(out, torch.Tensor) and out.shape[-1] in self.columns:
            self.rows = max(self.rows, out.numel() // out.shape[-1])
        return out


@pytest.mark.parametrize("chunk_size, dim", [(1, 0), (2, 0), (1, 1), (3, 1), (None, 0)])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_chunking_equals_diffusers(borrowed_pair, name, chunk_size, dim):
    config = CONFIGS[name]
    ours, theirs = borrowed_pair(config)
    inputs = make_inputs(config, batch=2, frames=3, height=4 if dim == 0 else 6, width=4 if dim == 0 else 6)
    expected = run_theirs(theirs, inputs)
    ours.enable_forward_chunking(chunk_size, dim)
    assert_close(run_ours(ours, inputs), expected)
    ours.disable_forward_chunking()
    option = ForwardOptions(forward_chunking=(chunk_size or 1, dim))
    assert_close(run_ours(ours, inputs, options=option), expected)


@pytest.mark.parametrize("dim", [0, 1])
@torch.no_grad()
def test_chunks_are_really_smaller(borrowed_pair, dim):
    ours, _ = borrowed_pair(SD15)
    inputs = make_inputs(SD15, batch=1, frames=4)
    rows = []
    for chunking in (None, (2, dim)):
        with LargestHidden(SD15["block_out_channels"]) as seen:
            run_ours(ours, inputs, options=ForwardOptions(forward_chunking=chunking))
        rows.append(seen.rows)
    assert 0 < rows[1] <= rows[0] / 2


@pytest.mark.parametrize("dim", [0, 1])
@torch.no_grad()
def test_what_is_split_are_frames_or_pixels_and_the_other_one_over_time(dim, monkeypatch):
    """0 splits the frames of spatial layers and the pixels of those over time, 1 the other way round."""
    ours, _ = pair(TINY)
    seen = {"image": set(), "motion": set()}
    names = {id(module): name for name, module in ours.named_modules()}
    plain = FeedForward.forward

    def watched(layer, tokens, lora=None):
        seen["motion" if "motion_modules" in names[id(layer)] else "image"].add(tuple(tokens.shape[:-1]))
        return plain(layer, tokens, lora)

    monkeypatch.setattr(FeedForward, "forward", watched)
    inputs = make_inputs(TINY, batch=1, frames=5)
    run_ours(ours, inputs, options=ForwardOptions(forward_chunking=(3, dim)))
    pixels = {shape[1 - dim] for shape in seen["image"]} if dim == 0 else {shape[2] for shape in seen["motion"]}
    if dim == 0:
        assert {shape[0] for shape in seen["image"]} == {3, 2} and min(pixels) > 3
        assert {shape[1] for shape in seen["motion"]} == {5} and max(shape[2] for shape in seen["motion"]) == 3
    else:
        assert {shape[0] for shape in seen["image"]} == {5} and max(shape[1] for shape in seen["image"]) == 3
        assert {shape[1] for shape in seen["motion"]} == {3, 2} and max(pixels) > 3


@pytest.mark.parametrize("chunk_size", [3, 5, 1000])
@torch.no_grad()
def test_chunk_size_need_not_divide(borrowed_pair, chunk_size):
    """diffusers refuses a size that does not divide the axis of every block; a remainder is no problem."""
    ours, theirs = borrowed_pair(SDXL)
    inputs = make_inputs(SDXL, batch=2, frames=4)
    for dim in (0, 1):
        option = ForwardOptions(forward_chunking=(chunk_size, dim))
        assert_close(run_ours(ours, inputs, options=option), run_theirs(theirs, inputs), what=f"dim {dim}")


def test_wrong_chunking():
    ours, theirs = pair(TINY)
    with pytest.raises(ValueError, match="dim"):
        theirs.enable_forward_chunking(1, dim=2)
    with pytest.raises(ValueError, match="dim"):
        ours.enable_forward_chunking(1, dim=2)
    with pytest.raises(ValueError, match="chunk_size"):
        ours.enable_forward_chunking(-1)
    with pytest.raises(ValueError, match="dim"):
        ForwardOptions(forward_chunking=(1, -1))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (dict(freeu=(0.9, 0.2, 1.5, 1.6)), TypeError, "`freeu` must be a FreeU object or None, found tuple."),
        (dict(views=[]), TypeError, "`views` must be a Views object or None, found list."),
        (dict(frames_at_once=0), ValueError, "`frames_at_once` is 0, expected a whole number of at least 1, or None."),
        (dict(frames_at_once=True), ValueError, "`frames_at_once` is True, expected a whole number of at least 1"),
        (dict(frames_at_once=2.0), ValueError, "`frames_at_once` is 2.0, expected a whole number of at least 1"),
        (dict(resnet_norm_scope="video"), ValueError, "`resnet_norm_scope` is 'video', expected 'frame' or 'clip'."),
        (dict(motion_norm_scope=None), ValueError, "`motion_norm_scope` is None, expected 'frame' or 'clip'."),
        (dict(forward_chunking=5), ValueError, "`forward_chunking` is 5, expected (chunk_size, dim) or None."),
        (dict(forward_chunking=(1, 2, 0)), ValueError, "`forward_chunking` is (1, 2, 0), expected (chunk_size, dim)"),
        (dict(forward_chunking=(1, 2)), ValueError, "either 0 or 1, not 2."),
        (dict(forward_chunking=(0, 1)), ValueError, "`chunk_size` is 0, expected a whole number of at least 1."),
        (dict(forward_chunking=(1.0, 1)), ValueError, "`chunk_size` is 1.0, expected a whole number of at least 1."),
    ],
    ids=str,
)
def test_options_of_another_type_or_size_are_named(changes, error, sentence):
    with pytest.raises(error) as found:
        ForwardOptions(**changes)
    assert sentence in str(found.value)


def test_the_least_that_options_take():
    options = ForwardOptions(frames_at_once=1, forward_chunking=[1, 1], freeu=None, views=None)
    assert (options.frames_at_once, options.plan, options.freeu) == (1, None, None)
    assert repr(options.motion_norm_scope) == "INHERIT" and not options.motion_norm_scope
    assert copy.deepcopy(options).motion_norm_scope is options.resnet_norm_scope
