"""The benchmark measures what it says: turns, memory, agreement, and the table it writes."""

import json
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import UNetMotionModel as DiffusersUNetMotionModel
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from unet_motion.bench import cases, catalogue, freeu, nets
from unet_motion.bench.cases import Row
from unet_motion.bench.measure import Ceilings, Turns, self_times, take_turns, weigh
from unet_motion.bench.report import cells, markdown
from unet_motion.cli import main

CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setitem(nets.WIDTHS, "tiny", (32, 64, 64, 64))
    return cases.Bench(CPU, torch.float32, Ceilings(1e9, 1e9), rounds=2)


def test_candidates_run_in_turn():
    order = []
    turns = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, rounds=3, warm=1)
    assert order == ["a", "b"] * 4
    assert [len(turns.seconds[name]) for name in "ab"] == [3, 3]
    low, high = turns.ratio("a", "b")[1:]
    assert low <= turns.ratio("a", "b")[0] <= high


def test_one_thread_of_a_cpu_is_timed_by_what_the_process_computes(monkeypatch):
    def wait():
        time.sleep(0.05)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert max(take_turns({"": wait}, CPU, 2).seconds[""]) < 0.04
    assert min(take_turns({"": wait}, CPU, 2, clock=time.perf_counter).seconds[""]) >= 0.05
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert min(take_turns({"": wait}, CPU, 2).seconds[""]) >= 0.05


def test_the_note_names_the_fastest_peer():
    rows = [Row("step", "slow", ratio=(1.6, 1, 2)), Row("step", "fast", ratio=(1.4, 1, 2), note="a: 2 ms")]
    rows.append(Row("step", "broken", note="outputs differ: not timed"))
    notes = [row.note for row in cases.name_fastest(rows)]
    assert notes == ["", "fast is the fastest peer, a: 2 ms", "outputs differ: not timed"]
    assert cases.name_fastest([Row("step", "alone", ratio=(1.6, 1, 2))])[0].note == "", "nothing to compare"


def test_a_compiled_module_has_a_row_of_its_own(bench, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(module) or module)
    bench = replace(bench, compiled=True, dtype=torch.bfloat16)
    rows = cases.motion_module(bench, 32, 1, 3, 4, ">= 1.3")
    assert [row.peer for row in rows] == ["diffusers", "diffusers compiled"] and len(compiled) == 1
    assert all(row.ratio and 1e-5 < row.error < cases.LIMITS[torch.bfloat16] for row in rows)
    assert sum("is the fastest peer" in row.note for row in rows) == 1


def test_peak_memory_is_the_most_that_is_held_at_once():
    def work():
        first = torch.empty(1 << 20)
        second = torch.empty(1 << 20)
        del first
        return second + 1

    assert weigh(work, CPU).memory == pytest.approx(2 * 4 << 20, abs=1024)


def test_a_call_is_weighed_with_its_result_and_operators():
    layer, x = nn.Linear(256, 512), torch.randn(64, 256)

    def work():
        return (layer(x) @ layer.weight).relu()

    weight = weigh(work, CPU)
    assert torch.equal(weight.result, work()) and weight.launches >= 3
    assert sum(weight.shares.values()) == pytest.approx(1) and "GEMM" in weight.shares


def test_arithmetic_is_that_of_torchs_own_counter_and_of_attention(bench):
    """Not every torch's counter knows the attention of CPUs."""
    ours = nets.our_unet("tiny", CPU, torch.float32)
    step = cases.step_of_ours(ours, nets.make_inputs(2, 3, 16, ours.config.cross_attention_dim, CPU, torch.float32))
    q, k, v = (torch.randn(2, 4, tokens, 24) for tokens in (50, 70, 70))
    attention = weigh(lambda: nn.functional.scaled_dot_product_attention(q, k, v), CPU).flops
    assert attention == 2 * 2 * 2 * 4 * 50 * 70 * 24
    layer = nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)
    image = torch.randn(2, 6, 15, 21)
    for work in (lambda: layer(image), lambda: image @ image.mT + 1, lambda: nn.functional.linear(q, k[0, 0])):
        with FlopCounterMode(display=False) as counter:
            work()
        assert weigh(work, CPU).flops == counter.get_total_flops() > 0
    with FlopCounterMode(display=False) as known:
        nn.functional.scaled_dot_product_attention(q, k, v)
    assert known.get_total_flops() in (0, attention)
    with FlopCounterMode(display=False) as counter, sdpa_calls() as calls:
        step()
    added = 0 if known.get_total_flops() else sum(calls)
    assert sum(calls) > 0 and weigh(step, CPU).flops == counter.get_total_flops() + added


@contextmanager
def sdpa_calls():
    """The arithmetic of each call of torch's attention in this context."""
    calls, original = [], nn.functional.scaled_dot_product_attention

    def attention(query, key, value, *rest, **named):
        calls.append(4 * query.numel() * key.shape[-2])
        return original(query, key, value, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "scaled_dot_product_attention", attention)
        yield calls


def test_time_by_operator_is_that_of_the_profilers_own_table():
    layer, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4)), torch.randn(300, 64)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        layer(x).sum().backward()  # the gradients are made in another thread
    found = self_times(record.profiler.kineto_results.events())
    expected = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    assert found.keys() == expected.keys()
    for name, took in expected.items():
        assert found[name] / 1e3 == pytest.approx(took, rel=1e-3, abs=1)


def test_both_networks_are_the_same(bench):
    ours = nets.our_unet("tiny", CPU, torch.float32)
    theirs = nets.their_unet(ours, CPU, torch.float32)
    assert isinstance(theirs, DiffusersUNetMotionModel)
    pointers = {parameter.data_ptr() for parameter in ours.parameters()}
    assert pointers == {parameter.data_ptr() for parameter in theirs.parameters()}
    inputs = nets.make_inputs(2, 3, 8, ours.config.cross_attention_dim, CPU, torch.float32)
    step, their_step = cases.step_of_ours(ours, inputs), cases.step_of_theirs(theirs, inputs)
    assert nets.relative_error(step(), their_step()) < 1e-5
    assert step().std() > 0.05


def test_outputs_that_differ_are_not_timed(bench):
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.randn(2, 4)
    row = bench.compare("linear", "another", lambda: layer(x), lambda: other(x))
    assert row.ratio is None and row.ours != row.ours and "differ" in row.note
    assert bench.compare("linear", "itself", lambda: layer(x), lambda: layer(x)).ratio is not None


def test_the_floor_is_that_of_the_highest_rates_that_were_measured():
    best = Ceilings(2e9, 1e9).best(Ceilings(1e9, 4e9))
    assert best == Ceilings(2e9, 4e9)
    step, kernel = Row("step", "", ours=3.0, flops=2 * 10**9), Row("kernel", "", ours=3.0, moved=4 * 10**9)
    assert cells(step, best)[-2] == cells(kernel, best)[-2] == "3.00" and cells(Row("", "", ours=1.0), best)[-2] == ""


def test_diffusers_is_compiled_in_the_faster_mode(bench, monkeypatch):
    seconds = {"max-autotune": 0.02, "max-autotune-no-cudagraphs": 0.0}
    monkeypatch.setattr(torch, "compile", lambda unet, mode: unet)
    ours = nets.our_unet("tiny", CPU, torch.float32)
    inputs = nets.make_inputs(1, 2, 16, ours.config.cross_attention_dim, CPU, torch.float32)
    step, theirs = cases.step_of_ours(ours, inputs), nets.their_unet(ours, CPU, torch.float32)
    monkeypatch.setattr(cases, "take_turns", lambda works, *_, **__: Turns({n: [seconds.get(n, 1.0)] for n in works}))
    row = cases.compiled_step(bench, "step", step, theirs, inputs, cases.COMPILE_MODES)
    assert row.peer == "diffusers compiled (max-autotune-no-cudagraphs)" and row.error < 1e-5
    assert row.note == "max-autotune: 20 ms, max-autotune-no-cudagraphs: 0 ms"
    seconds.update({"max-autotune": 0.0, "max-autotune-no-cudagraphs": 0.02})
    assert cases.compiled_step(bench, "step", step, theirs, inputs, cases.COMPILE_MODES).peer.endswith("(max-autotune)")


def test_every_kind_of_row_has_its_place_in_the_table(bench):
    rows = cases.whole_step(bench, "tiny", 1, 2, 16, ">= 1.2") + cases.motion_module(bench, 32, 1, 3, 4, ">= 1.3")
    rows += freeu.freeu_step(bench, "tiny", 1, 2, 16, "<= 1.5 %") + cases.long_clips(bench, "tiny", 8, (2, 4))
    table = markdown({"device": "a CPU", "dtype": "float32"}, rows, bench.ceilings)
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(rows) - 1 and {line.count("|") for line in lines} == {11}
    assert "FreeU in step tiny" in table and "% of the step" in table and rows[0].error < 1e-5 and rows[0].memory[0] > 0
    assert rows[-1].memory[0] > rows[-2].memory[0]


def test_freeu_is_timed_on_what_a_step_concatenates(bench, monkeypatch):
    ours = nets.our_unet("tiny", CPU, torch.float32)
    inputs = nets.make_inputs(1, 2, 16, ours.config.cross_attention_dim, CPU, torch.float32)
    with freeu.concatenations() as found:
        expected = cases.step_of_ours(ours, inputs)()
    assert torch.equal(cases.step_of_ours(ours, inputs)(), expected)
    blocks = [len(block.resnets) for block in ours.up_blocks[:2]]
    assert [i for *_, i in found] == [0] * blocks[0] + [1] * blocks[1]
    times = {"ours": [0.03, 0.02], "plain": [0.01, 0.01], "theirs": [0.05, 0.05], "their plain": [0.01, 0.02]}
    monkeypatch.setattr(freeu, "take_turns", lambda works, *_: [w() for w in works.values()] and Turns(times))
    row = freeu.alone(bench, "a step", found, 2.0, "")
    assert row.ours == pytest.approx(0.015) and row.theirs == pytest.approx(0.035)
    assert row.note == "0.75 % of the step"


def test_freeus_results_have_to_agree(bench, monkeypatch):
    monkeypatch.setattr(freeu, "relative_error", lambda *_: 1.0)
    (row,) = freeu.freeu_step(bench, "tiny", 1, 2, 16, "")
    assert row.ours != row.ours and row.note == "outputs differ: not timed"
    ours, theirs = nets.both_unets("tiny", CPU, torch.float32)  # the networks that the next case gets
    inputs = nets.make_inputs(1, 2, 16, ours.config.cross_attention_dim, CPU, torch.float32)
    plain = cases.step_of_ours(nets.our_unet("tiny", CPU, torch.float32), inputs)()
    assert torch.equal(cases.step_of_ours(ours, inputs)(), plain)
    assert nets.relative_error(cases.step_of_theirs(theirs, inputs)(), plain) < 1e-5


def test_the_command_line_runs_a_case_and_writes_the_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(catalogue.CPU_CASES, "motion-module", lambda b: cases.motion_module(b, 32, 1, 2, 4, ""))
    assert main(["bench", "motion-module", "--device", "cpu", "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert "| motion module 32 channels" in capsys.readouterr().out
    (table,) = tmp_path.glob("*.md")
    written = json.loads(table.with_suffix(".json").read_text())
    assert written["rows"][0]["ratio"][0] > 0 and written["about"]["dtype"] == "float32"
    assert main(["bench", "nothing"]) == 2
    assert "expected some of motion-module" in capsys.readouterr().err
