"""The mode "proven": a kernel runs once it has shown that it is as exact as its twin and no slower, else the twin."""

import logging
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from poison import DEVICE, pictures, random

from unet_motion import ForwardOptions, FreeU, UNetMotionModel, kernels
from unet_motion.bench.nets import make_inputs, randomise
from unet_motion.ops import dispatch, feed_forward, group_norm, layer, proof, tuning
from unet_motion.ops.attention import DEFAULT_PROCESSOR
from unet_motion.ops.feed_forward import geglu, geglu_eager
from unet_motion.ops.feed_forward.triton_op import GEGLU
from unet_motion.ops.group_norm import scoped_group_norm
from unet_motion.runtime.cuda_graphs import StepGraphs

SINGLE = torch.float32
MEASURED = "geglu_product"
"""The kernel that runs only where it was measured to be faster than what it replaces."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Nothing is proven yet, the mode is on, and the inputs are such that an interpreter can run them."""
    monkeypatch.setattr(proof, "_proofs", {})
    monkeypatch.setattr(proof, "interpreted", lambda: False)
    monkeypatch.setattr(proof, "ODD", ((1, 3, 5, 32),))
    monkeypatch.setattr(proof, "TYPICAL", (1, 2, 4, 64))
    monkeypatch.setattr(proof, "TIMED", (1, 2, 4, 64))
    with torch.no_grad(), kernels.use("proven"):
        yield


@pytest.fixture
def log(caplog):
    """The lines that proofs wrote."""
    caplog.set_level(logging.DEBUG, "unet_motion.ops.proof")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "unet_motion.ops.proof"]


def with_geglu(monkeypatch, change):
    """GEGLU with a kernel that gives the twin's values, changed; counted in the list that is given."""
    calls = []

    def kernel(x):
        calls.append(tuple(x.shape))
        return change(geglu_eager(x))

    monkeypatch.setattr(feed_forward, "geglu_kernel", kernel)
    return calls


def raising(error):
    def change(*_):
        raise error

    return change


def with_nan(plain):
    plain.reshape(-1)[-1] = float("nan")
    return plain


def wrong_on_odd_sizes(plain):
    return plain * (1 if plain.shape[-2] % 2 == 0 else 1.01)


def wrong_in_one_number(plain):
    plain[0, 0, 0] += plain.abs().max() * 8 * torch.finfo(plain.dtype).eps
    return plain


@pytest.mark.parametrize("name", sorted(dispatch.KERNELS))
def test_each_kernel_is_proven_in_every_variant_and_says_its_numbers(name, log):
    found = proof.proof_of(dispatch.KERNELS[name], DEVICE, SINGLE)
    assert found.taken, found.note
    assert "of the largest value from float64, the plain twin" in found.note
    assert log() == [("INFO", f"{name} runs as a Triton kernel on {proof.with_index(DEVICE)} in float32: {found.note}")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["geglu", "float8", "residual_sum"])
def test_kernels_are_proven_in_each_dtype_for_itself(name, dtype):
    assert proof.proof_of(dispatch.KERNELS[name], DEVICE, dtype).taken
    assert [key[2] for key in proof._proofs] == [dtype]


def test_a_proven_kernel_runs_and_gives_the_twins_values(monkeypatch):
    calls = with_geglu(monkeypatch, lambda plain: plain)
    x = random(3, 16)
    assert torch.equal(geglu(x), geglu_eager(x)) and calls[-1] == (3, 16)
    count = len(calls)
    geglu(x)
    assert len(calls) == count + 1
    assert list(proof._proofs) == [("geglu", x.device, SINGLE)]
    with_geglu(monkeypatch, raising(AssertionError("a second dtype is proven anew")))
    assert torch.equal(geglu(x.half()), geglu_eager(x.half()))
    assert [found.taken for found in proof._proofs.values()] == [True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain * 1.01, "GEGLU, 1x3x5x32, it is "),
        (wrong_on_odd_sizes, "GEGLU, 1x3x5x32, it is "),
        (wrong_in_one_number, "GEGLU, 1x3x5x32, it is "),
        (with_nan, "it is nan of the largest value from float64"),
        (lambda plain: plain.double(), "it is inf of the largest value"),
        (lambda plain: plain[..., 1:], "it is inf of the largest value"),
        (raising(RuntimeError("out of resources\nand more")), "its kernel failed: RuntimeError: out of resources"),
        (raising(SyntaxError("at 3:4")), "its kernel failed: SyntaxError: at 3:4"),
    ],
    ids=["scale", "odd", "one number", "nan", "dtype", "shape", "raises", "does not compile"],
)
def test_a_wrong_kernel_is_refused_with_one_line_and_the_plain_values(change, said, monkeypatch, log):
    calls, x = with_geglu(monkeypatch, change), random(3, 16)
    for _ in range(3):
        assert torch.equal(geglu(x), geglu_eager(x))
    assert (3, 16) not in calls
    ((level, line),) = log()
    assert level == "WARNING" and line.startswith(f"geglu runs as plain PyTorch on {x.device} in float32: ")
    assert said in line and "and more" not in line


def test_a_compiler_that_fails_is_no_error_of_the_step(monkeypatch, log):
    """The launcher itself, as a driver or compiler would."""
    from unet_motion.ops.feed_forward import triton as launcher

    class CompilationError(Exception):
        pass

    def launch(*_):
        raise CompilationError("no such instruction")

    monkeypatch.setattr(launcher, "launch", launch)
    x = random(3, 16)
    assert torch.equal(geglu(x), geglu_eager(x))
    assert "its kernel failed: CompilationError: no such instruction" in log()[0][1]


def test_every_one_of_several_results_is_compared(monkeypatch):
    """The layer norm is right, the sum that goes on is not."""
    from unet_motion.ops import layer_norm

    right = layer_norm.add_layer_norm_kernel

    def kernel(*arguments):
        total, normalised = right(*arguments)
        return total * 1.01, normalised

    monkeypatch.setattr(layer_norm, "add_layer_norm_kernel", kernel)
    assert not proof.proof_of(dispatch.KERNELS["layer_norm"], DEVICE, SINGLE).taken


def test_rounding_to_float8_has_to_be_equal(monkeypatch):
    """A byte of 255 is less than bfloat16 rounds to."""
    from unet_motion.ops import float8

    def kernel(x):
        found = float8.rounded_eager(x).view(torch.uint8).clone()
        found.view(-1)[0] ^= 1
        return found.view(torch.float8_e4m3fn)

    monkeypatch.setattr(float8, "rounded_kernel", kernel)
    assert not proof.proof_of(dispatch.KERNELS["float8"], DEVICE, torch.bfloat16).taken


@pytest.mark.parametrize(("times", "taken"), [((1.0, 1.0), True), ((0.5, 1.0), True), ((1.001, 1.0), False)])
def test_a_slower_kernel_is_refused(times, taken, monkeypatch, log):
    calls, clocked = with_geglu(monkeypatch, lambda plain: plain), []

    def clock(works, device):
        clocked.append([work() for work in works])
        return times

    monkeypatch.setattr(proof, "has_events", lambda _: True)
    monkeypatch.setattr(proof, "device_milliseconds", clock)
    x = random(3, 16)
    assert torch.equal(geglu(x), geglu_eager(x)) and ((3, 16) in calls) == taken
    assert len(clocked) == 1 and torch.equal(*clocked[0])
    ((level, line),) = log()
    assert level == "INFO" and f"{times[0]:.3f} ms, the plain twin 1.000 ms" in line
    assert ("runs as plain PyTorch" in line) != taken


def test_time_on_a_card_is_that_of_the_device_in_turns(monkeypatch):
    """A clock that works move on; the first round takes longer, and the wait before each is not counted."""
    now, order, rounds = [0.0], [], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def synchronize(self):
            rounds.append(len(order))

        def elapsed_time(self, end):
            return end.at - self.at

    def work(name, milliseconds):
        def run():
            order.append(name)
            now[0] += milliseconds * (9 if len(order) <= 2 * proof.CALLS else 1)

        return run

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(proof, "occupy", lambda device: now.__setitem__(0, now[0] + 1000))
    works = work("kernel", 2.0), work("plain", 3.0)
    assert proof.device_milliseconds(works, DEVICE) == [2.0, 3.0]
    calls = proof.CALLS
    assert order == (["kernel"] * calls + ["plain"] * calls) * proof.ROUNDS and rounds == [len(order)]


@pytest.mark.parametrize("sums,taken", [((3.0, 1.0, 1.0, 1.0), True), ((3.0, 4.0, 1.0, 1.0), False)])
def test_what_counts_is_the_time_of_all_variants_together(sums, taken, monkeypatch):
    left = list(sums)
    monkeypatch.setattr(proof, "_compare", lambda *_: "")
    monkeypatch.setattr(proof, "has_events", lambda _: True)
    monkeypatch.setattr(proof, "device_milliseconds", lambda *_: (left.pop(), 2.0))
    assert proof.proof_of(dispatch.KERNELS["freeu"], DEVICE, SINGLE).taken is taken and not left


def test_two_steps_at_once_prove_once(monkeypatch):
    calls, inside, results = with_geglu(monkeypatch, lambda plain: plain), threading.Event(), []
    compare, compared = proof._compare, []

    def slow(*given):
        compared.append(given)
        inside.set()
        second.join(0.2)  # the second thread waits for the answer meanwhile
        return compare(*given)

    def step():
        with torch.no_grad(), kernels.use("proven"):
            results.append(geglu(x))

    monkeypatch.setattr(proof, "_compare", slow)
    x = random(3, 16)
    first, second = threading.Thread(target=step), threading.Thread(target=lambda: inside.wait(9) and step())
    second.start()
    first.start()
    for thread in (first, second):
        thread.join()
    assert len(compared) == 1 and calls.count((3, 16)) == 2 and torch.equal(*results)


def test_a_proof_leaves_no_trace_in_the_step_around_it(monkeypatch):
    with_geglu(monkeypatch, lambda plain: plain)
    seen = []

    def compare(kernel, device, dtype):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled(DEVICE.type), kernels.current_mode()))
        return "numbers"

    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16), torch.inference_mode():
            geglu(random(3, 16))  # takes random numbers of its own
            now = torch.random.get_rng_state()
            assert proof.proof_of(GEGLU, DEVICE, torch.bfloat16).taken
            assert torch.is_autocast_enabled(DEVICE.type) and torch.is_inference_mode_enabled()
            monkeypatch.setattr(proof, "_compare", compare)
            proof.proof_of(GEGLU, DEVICE, torch.float16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [(False, False, "eager")] and kernels.current_mode() == "proven"
    assert torch.equal(torch.random.get_rng_state(), now) and not torch.equal(state, now)


def test_nothing_is_proven_where_gradients_are_recorded(monkeypatch):
    """There the step is as in the mode "eager", its layout too."""
    calls, x = with_geglu(monkeypatch, lambda plain: plain), random(3, 16).requires_grad_()
    called = []
    norm = torch.nn.GroupNorm(2, 8, device=DEVICE)
    monkeypatch.setattr(group_norm, "group_norm_eager", lambda *given: called.append(given))
    with torch.enable_grad():
        geglu(x).sum().backward()
        scoped_group_norm(norm, pictures(2, 8, 3, 3), 2, "frame").sum().backward()
    assert not calls and not called and not proof._proofs and x.grad is not None


def test_a_kernel_that_is_refused_leaves_the_step_as_it_is_without_it(monkeypatch):
    """Bit for bit, in the layout of the plain layers too."""
    layer, x = torch.nn.GroupNorm(2, 8, device=DEVICE), pictures(2, 8, 3, 3)
    with kernels.use("eager"):
        expected = scoped_group_norm(layer, x, 2, "clip", torch.nn.functional.silu)
    monkeypatch.setattr(group_norm, "group_norm_kernel", lambda tokens, *_: tokens * 2)
    found = scoped_group_norm(layer, x, 2, "clip", torch.nn.functional.silu)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    assert not proof._proofs["group_norm", x.device, SINGLE].taken


def test_nothing_is_proven_while_a_graph_is_captured(monkeypatch):
    """A step's first runs, which warm up, prove; a capture that comes without them stays plain, and nothing is kept."""
    calls, x = with_geglu(monkeypatch, lambda plain: plain), random(3, 16)
    monkeypatch.setattr(proof, "is_capturing", lambda _: True)
    assert torch.equal(geglu(x), geglu_eager(x)) and not calls and not proof._proofs
    monkeypatch.setattr(proof, "is_capturing", lambda _: False)
    geglu(x)
    monkeypatch.setattr(proof, "is_capturing", lambda _: True)
    count = len(calls)
    geglu(x)
    assert len(calls) == count + 1


def test_nothing_is_proven_in_compiled_code(monkeypatch):
    calls, x = with_geglu(monkeypatch, lambda plain: plain), random(3, 16)
    compiled = torch.compile(geglu, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), geglu_eager(x)) and not calls and not proof._proofs


def test_where_triton_cannot_run_there_is_nothing_to_choose(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    calls, x = with_geglu(monkeypatch, lambda plain: plain), random(3, 16)
    geglu(x.double())
    monkeypatch.setattr(dispatch, "unavailable", lambda device: "Triton has no backend here")
    geglu(x)
    monkeypatch.undo()
    calls = with_geglu(monkeypatch, lambda plain: plain)
    if dispatch.interpreted():  # for tests alone, and slower than any twin
        geglu(x)
        assert "interpreter is slower" in kernels.report(DEVICE, SINGLE).operations["geglu"].note
    assert not calls and not proof._proofs and not caplog.records


def test_attention_over_frames_is_the_default_processors_where_it_was_proven(monkeypatch):
    import unet_motion.ops.attention as attention

    launched, right = [], attention.temporal_attention_kernel
    monkeypatch.setattr(
        attention, "temporal_attention_kernel", lambda *given: launched.append(given[0].shape) or right(*given)
    )
    tokens = [random(2, 5, 3, 2, 8) for _ in range(3)]

    def attend(mode):
        del launched[:]
        with kernels.use(mode):
            return DEFAULT_PROCESSOR.attend_frames(*tokens, 0.3)

    expected = attend("eager")
    assert torch.equal(attend("triton"), expected) and not launched  # its own choice, as ever
    torch.testing.assert_close(attend("proven"), expected, rtol=1e-5, atol=1e-6)
    assert launched[-1] == (2, 3, 2, 5, 8)
    long = [random(1, 65, 1, 1, 8) for _ in range(3)]
    with kernels.use("eager"):
        exact = DEFAULT_PROCESSOR.attend_frames(*long, 0.3)
    assert torch.equal(DEFAULT_PROCESSOR.attend_frames(*long, 0.3), exact)
    proof._proofs.clear()
    monkeypatch.setattr(attention, "temporal_attention_kernel", lambda *given: right(*given) * 1.01)
    assert torch.equal(attend("proven"), expected)


def network():
    unet = UNetMotionModel(
        down_block_types=("CrossAttnDownBlockMotion",),
        up_block_types=("UpBlockMotion",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=12,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        resnet_norm_scope="clip",
    ).eval()
    randomise(unet)
    return unet.to(DEVICE)


def test_a_network_runs_on_what_is_proven_and_on_nothing_else(monkeypatch):
    monkeypatch.setattr(proof, "_compare", lambda *_: "numbers")
    unet = network()
    inputs = make_inputs(1, 2, 4, unet.config.cross_attention_dim, DEVICE, SINGLE)
    options = ForwardOptions(freeu=FreeU(0.9, 0.2, 1.5, 1.6, "v2"))

    def run(mode):
        with kernels.use(mode):
            return unet(inputs.sample, inputs.timestep, inputs.text, options=options).sample

    expected, result = run("eager"), run("proven")
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max() and not torch.equal(result, expected)
    used = set(dispatch.KERNELS) - {"float8", MEASURED} - (set() if DEVICE.type == "cuda" else {"residual_sum"})
    assert {key[0] for key in proof._proofs} == used and all(found.taken for found in proof._proofs.values())
    for key, found in proof._proofs.items():
        proof._proofs[key] = replace(found, taken=False)
    assert torch.equal(run("proven"), expected)


def test_geglu_inside_the_product_is_proven_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(layer, "CARDS", ("cpu", "cuda"))
    door, x = nn.Linear(8, 12).to(DEVICE), random(3, 8)
    expected = geglu_eager(door(x))
    torch.testing.assert_close(feed_forward.geglu_layer(door, x), expected)
    assert [key[0] for key in proof._proofs] == ["geglu"]
    with tuning.choosing(MEASURED) as launched:
        torch.testing.assert_close(feed_forward.geglu_layer(door, x), expected)
        assert [key[0] for key in proof._proofs] == ["geglu", MEASURED]
        count = len(launched)
        feed_forward.geglu_layer(door, x)
        assert len(launched) == count + 1
        key = (MEASURED, x.device, SINGLE, ("rows", 4), ("depth", 8), ("width", 6))
        assert list(proof._proofs)[-1] == key
        proof._proofs[key] = proof.Proof(False, "")
        torch.testing.assert_close(feed_forward.geglu_layer(door, x), expected)
        assert len(launched) == count + 1
    with kernels.use("eager"), monkeypatch.context() as patched:
        patched.setattr(
            proof, "is_chosen", raising(AssertionError("the table is not read where no kernel is asked for"))
        )
        feed_forward.geglu_layer(door, x)


@pytest.fixture
def entry(monkeypatch):
    """One entry of tiles for the product, as on a card that was measured."""
    use = {"ROWS": 32, "BLOCK": 32, "DEPTH": 32, "num_warps": 4, "num_stages": 2}
    sizes = {"rows": 4096, "depth": 96, "width": 384}
    monkeypatch.setattr(proof, "tuned", lambda kernel, device, dtype, **given: use if given == sizes else {})
    return use, sizes


def test_a_kernel_that_is_measured_at_each_size_is_compared_and_timed_with_the_tiles_for_it(entry, monkeypatch, log):
    (use, sizes), product, compared, timed = entry, dispatch.KERNELS[MEASURED], [], []

    def compare(*_):
        compared.append(dict(tuning.tuned(MEASURED, DEVICE, SINGLE, **sizes)))
        return "as near"

    def clock(works, device):
        timed.append([work().shape for work in works])
        return times

    monkeypatch.setattr(proof, "_compare", compare)
    monkeypatch.setattr(proof, "has_events", lambda _: True)
    monkeypatch.setattr(proof, "device_milliseconds", clock)
    monkeypatch.setattr(proof, "TIMED", (1, 16, 4, 32))
    for times, taken in (((2.0, 2.5, 2.1), True), ((2.0, 2.5, 1.9), False), ((2.0, 1.9, 2.1), False)):
        proof._proofs.clear()
        found = proof.proof_of(product, DEVICE, SINGLE, sizes)
        assert found.taken is taken and f"2.000 ms, the plain twin {min(times[1:]):.3f} ms" in found.note
    assert compared == [use] * 3
    assert timed == [[(16, 16, 4 * 96)] * 3] * 3, "the product alone, and both ways that it takes the place of"
    assert log()[0][1].startswith(f"{MEASURED} runs as a Triton kernel on {proof.with_index(DEVICE)} in float32 at ")
    assert "at rows 4096, depth 96, width 384: as near" in log()[0][1]


def test_of_few_rows_no_more_are_timed(monkeypatch):
    monkeypatch.setattr(proof, "TIMED", (1, 16, 32, 320))
    product = dispatch.KERNELS[MEASURED]
    assert proof.timed_size(product, {"rows": 131072, "depth": 320, "width": 1280}) == (1, 16, 32, 320)
    assert proof.timed_size(product, {"rows": 2048, "depth": 1280, "width": 5120}) == (1, 2, 32, 1280)
    assert proof.timed_size(product, {"rows": 64, "depth": 1280, "width": 5120}) == (1, 1, 32, 1280)
    assert proof.timed_size(product, {}) == (1, 2, 32, 320)
    assert proof.timed_size(dispatch.KERNELS["freeu"], {}) == (1, 16, 32, 320)


def test_the_report_says_at_how_many_sizes_a_measured_kernel_was_proven(monkeypatch):
    from unet_motion.ops import report

    sizes = [{"rows": rows, "depth": 8, "width": 32} for rows in (64, 128, 256)]
    monkeypatch.setattr(report, "measured_sizes", lambda name, *_: sizes if name == MEASURED else [])
    monkeypatch.setattr(proof, "_compare", lambda *_: "numbers")
    refused = {64, 128, 256}

    def clock(kernel, device, dtype, of):
        if of and of["rows"] in refused:
            raise proof.Refused("it takes longer", slow=True)
        return ""

    monkeypatch.setattr(proof, "_time", clock)
    assert str(kernels.report(DEVICE, SINGLE).operations[MEASURED]) == "eager: it takes longer"
    proof._proofs.clear()
    refused.remove(128)
    said = "triton: at 1 of the 3 sizes where it was measured to be faster, proven: numbers"
    assert str(kernels.report(DEVICE, SINGLE).operations[MEASURED]) == said


def test_without_memory_nothing_is_decided_for_long(monkeypatch, log):
    now, full = [1000.0], [True]

    def compare(*_):
        if full[0]:
            raise torch.cuda.OutOfMemoryError("tried to allocate")
        return "numbers"

    monkeypatch.setattr(proof, "_compare", compare)
    monkeypatch.setattr(proof.time, "monotonic", lambda: now[0])
    calls, x = with_geglu(monkeypatch, lambda plain: plain), random(3, 16)
    for _ in range(3):
        assert torch.equal(geglu(x), geglu_eager(x)) and not calls
    assert [level for level, _ in log()] == ["INFO"] and "no memory left" in log()[0][1]
    full.clear(), full.append(False)
    now[0] += proof.AGAIN - 1
    geglu(x)
    assert not calls
    now[0] += 2
    geglu(x)
    assert calls == [(3, 16)] and proof._proofs["geglu", x.device, SINGLE].until is None


def test_whoever_counts_or_replaces_operators_sees_none_of_a_proof(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = random(3, 16)
    with Counting() as first:
        geglu(x)
    assert proof._proofs["geglu", x.device, SINGLE].taken
    with Counting() as second:
        geglu(x)
    assert first.seen == second.seen and first.seen


def test_a_proof_is_of_real_numbers_where_the_step_has_none(monkeypatch):
    """As whoever counts a step's memory does."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        geglu(torch.empty(3, 16, device=DEVICE))
    (found,) = proof._proofs.values()
    assert found.taken and "of the largest value from float64" in found.note


def test_whoever_reads_the_log_may_ask_for_the_report(log, monkeypatch):
    monkeypatch.setattr(proof, "_compare", lambda *_: "numbers")
    asked = []

    class Asking(logging.Handler):
        def emit(self, record):
            if not asked:
                asked.append(True)
                with kernels.use("proven"):
                    asked.append(kernels.report(DEVICE, SINGLE))

    handler = Asking()
    proof._log.addHandler(handler)
    try:
        thread = threading.Thread(target=lambda: proof.proof_of(GEGLU, DEVICE, SINGLE), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive() and asked[1].operations["geglu"].note == "proven: numbers"
    finally:
        proof._log.removeHandler(handler)


def test_a_recorded_step_proves_before_it_is_captured_and_has_a_graph_of_its_own(monkeypatch):
    """As CUDA's recorder does: runs that warm up, then one that is captured."""
    capturing, captured = [], []

    def record(work, device):
        work()
        before = dict(proof._proofs)
        capturing.append(True)
        out = work()
        capturing.clear()
        captured.append(proof._proofs == before)
        return (lambda: out.copy_(work())), out

    monkeypatch.setattr(proof, "is_capturing", lambda _: bool(capturing))
    monkeypatch.setattr(proof, "_compare", lambda *_: "numbers")
    unet = network()
    given = make_inputs(1, 2, 4, unet.config.cross_attention_dim, DEVICE, SINGLE)
    graphs = StepGraphs(unet, recorder=record)
    for mode in ("eager", "proven", "proven"):
        with kernels.use(mode):
            graphs(given.sample.transpose(1, 2).flatten(0, 1), given.timestep, given.text, 2)
    assert captured == [True, True] and len(graphs) == 2 and proof._proofs


def test_the_report_says_what_was_proven_or_why_not(monkeypatch):
    monkeypatch.setattr(proof, "_compare", lambda kernel, *_: f"numbers of {kernel.name}")
    found = kernels.report(DEVICE, SINGLE)
    assert set(found.operations) == set(dispatch.KERNELS)
    not_measured = found.operations.pop(MEASURED)
    assert not_measured.runs == "eager" and "not measured to be faster" in not_measured.note
    for name, path in found.operations.items():
        assert (path.runs, path.note) == ("triton", f"proven: numbers of {name}")
    with tuning.choosing(MEASURED):
        assert str(kernels.report(DEVICE, SINGLE).operations[MEASURED]) == f"triton: proven: numbers of {MEASURED}"
    assert found.attention["auto"].note.startswith("over frames as triton up to 64, else ")
    proof._proofs.clear()
    monkeypatch.setattr(proof, "_compare", raising(proof.Refused("it is far from float64")))
    with tuning.choosing(MEASURED):
        found = kernels.report(DEVICE, SINGLE)
    assert {(path.runs, path.note) for path in found.operations.values()} == {("eager", "it is far from float64")}
    assert "over frames" not in found.attention["auto"].note
    with kernels.use("eager"):
        assert "not asked for" in kernels.report(DEVICE, SINGLE).operations["geglu"].note
