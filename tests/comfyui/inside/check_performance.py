"""The Performance node: what a MODEL samples is the same, and each choice reaches what it is for.

A recorder stands in for CUDA's, which reruns the recorded work on the recorded inputs and fills the recorded output.
"""

from __future__ import annotations

import functools
import logging

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.sd
import pytest
import torch
from check_saving import sampled
from pack.nodes.host.lora import load_motion_lora
from pack.nodes.host.model.apply import apply_motion_module
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step import performance
from pack.nodes.host.step.settings import with_settings
from pack.nodes.options import AttentionProcessor, FreeU
from pack.nodes.performance import Performance
from pack.unet_motion.kernels import current_mode
from pack.unet_motion.ops import dispatch, feed_forward, group_norm, proof
from pack.unet_motion.ops.conv import cpu as convolution
from pack.unet_motion.ops.mode import MODES
from safetensors.torch import save_file
from small import motion_module, relative, sd15


class Recorder:
    def __init__(self):
        self.recorded = 0

    def __call__(self, work, device):
        self.recorded += 1
        out = work()
        return (lambda: out.copy_(work())), out


@pytest.fixture
def recorder(monkeypatch):
    """Makes all graphs of a test with one recorder, on the CPU too."""
    recorder = Recorder()
    kind = functools.partial(performance.HostGraphs, recorder=recorder)
    monkeypatch.setattr(performance, "HostGraphs", kind)
    monkeypatch.setattr("pack.nodes.performance.why_not", lambda *_: None)
    return recorder


@pytest.fixture
def base():
    return apply_motion_module(sd15(), motion_module())


def run(model, **chosen):
    given = {"kernels": "unchanged", "cuda_graphs": False, "compile": "unchanged", "chunk_size": 0, **chosen}
    return Performance.execute(model, **given)


def graphed(model):
    return run(model, cuda_graphs=True)[0]


def freeu(model, *percent):
    return FreeU.execute(model, True, "sd1.5", "v1", 1.0, 1.0, 1.0, 1.0, *percent)[0]


def test_a_recorded_step_serves_a_whole_sampling_and_the_next(base, recorder):
    expected, model = sampled(base), graphed(base)
    assert relative(sampled(model), expected) < 1e-5
    assert relative(sampled(model), expected) < 1e-5 and recorder.recorded == 1
    assert torch.equal(sampled(base), expected)
    assert torch.equal(sampled(run(model)[0]), expected) and recorder.recorded == 1


def test_settings_of_other_nodes_act_in_recorded_steps(recorder, tmp_path):
    base, clip, _ = load_bundled_models()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a red star moving left"))
    path = next(p for p, _ in base.model.diffusion_model.core.named_modules() if p.endswith("motion_modules.0.proj_in"))
    rows, columns = base.model.diffusion_model.core.get_submodule(path).weight.shape
    file = tmp_path / "pan.safetensors"
    save_file({f"{path}.lora_A.weight": torch.randn(2, columns), f"{path}.lora_B.weight": torch.randn(rows, 2)}, file)
    branches = {
        "plain": base,
        "freeu": freeu(base, 0.0, 1.0),
        "freeu in the second step": freeu(base, 0.3, 1.0),
        "math": AttentionProcessor.execute(base, "math", "math")[0],
        "lora": load_motion_lora(base, str(file), 1.0, "0:0, 1:1", "0:0, 2:1"),
    }
    results = []
    for number, (name, branch) in enumerate(branches.items(), 1):
        results.append(sampled(branch, text))
        for _ in range(2):
            assert relative(sampled(graphed(branch), text), results[-1]) < 1e-5, name
        assert recorder.recorded == number
    del results[3]  # the same attention by another way
    assert all(relative(a, b) > 1e-4 for i, a in enumerate(results) for b in results[:i])


def test_a_lora_on_the_weights_acts_in_recorded_steps_and_is_gone_behind_it(base, recorder):
    key = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    rows, columns = base.model.diffusion_model.get_submodule(key).weight.shape
    name = "lora_unet_" + key.replace(".", "_")
    lora = {f"{name}.lora_up.weight": torch.randn(rows, 4), f"{name}.lora_down.weight": torch.randn(4, columns)}
    plain = sampled(graphed(base))
    changed = comfy.sd.load_lora_for_models(base, None, lora, 1.0, 0.0)[0]
    expected = sampled(changed)
    assert relative(expected, plain) > 1e-4
    assert relative(sampled(graphed(changed)), expected) < 1e-5
    assert relative(sampled(graphed(base)), plain) < 1e-5


def patched(model):
    model = model.clone()
    model.set_model_attn1_output_patch(lambda tokens, extra: tokens * 1.01)
    return model


def test_what_cannot_be_recorded_runs_without_and_the_log_says_why_once(base, recorder, caplog):
    model = patched(base)
    expected = sampled(model)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sampled(graphed(model)), expected)
    assert recorder.recorded == 0
    reason = "CUDA graphs are not used: a host's hooks may do another thing in each step."
    assert [r.getMessage() for r in caplog.records if "CUDA" in r.getMessage()] == [reason]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("weight_function", [lambda weight: weight], "a LoRA is applied to weights while the model computes"),
        ("_v", object(), "weights are brought to the device while the model computes"),
        ("weight", torch.empty(1, device="meta"), "weights are brought to the device while the model computes"),
    ],
)
def test_weights_that_comfyui_moves_or_patches_in_a_step_are_not_recorded(name, value, reason, base, recorder):
    core = base.model.diffusion_model.core
    graphs = performance.HostGraphs(core)
    with torch.no_grad():
        assert graphs.declines(torch.zeros(1)) is None
        layer = core.mid_block.resnets[0].conv1
        setattr(layer, name, torch.nn.Parameter(value) if name == "weight" else value)
        assert graphs.declines(torch.zeros(1)) == reason


def test_graphs_are_freed_when_the_model_is_unloaded(base, recorder):
    sampled(graphed(base))
    graphs = base.model.diffusion_model.graphs
    assert len(graphs) == 1
    comfy.model_management.unload_all_models()
    assert len(graphs) == 0


@pytest.fixture
def modes(monkeypatch):
    """The modes in which norms are computed."""
    seen = set()
    monkeypatch.setattr(group_norm, "wanted", lambda *_: seen.add(current_mode()))
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_the_choice_of_kernels_holds_for_the_calls_of_its_branch(mode, base, modes, monkeypatch):
    other = {"eager": "triton", "triton": "eager", "proven": "eager"}[mode]
    monkeypatch.setenv("UNET_MOTION_KERNELS", other)
    sampled(with_settings(base, kernels=mode))
    assert modes == {mode}
    modes.clear()
    sampled(base)
    assert modes == {other} and current_mode() == other


def test_kernels_that_are_proven_run_unasked_and_the_environment_takes_them_away(base, modes, monkeypatch):
    monkeypatch.delenv("UNET_MOTION_KERNELS", raising=False)
    sampled(base)
    assert modes == {"proven"} and current_mode() == "eager"
    monkeypatch.setenv("UNET_MOTION_KERNELS", "eager")
    modes.clear()
    sampled(base)
    assert modes == {"eager"}


@pytest.fixture
def on_a_card(monkeypatch):
    """Takes the CPU for a device with Triton, whose kernel of GEGLU gives the twin's values, and proves no other.

    Gives the list of what that kernel is launched on.
    """
    launched = []

    def kernel(x):
        launched.append(tuple(x.shape))
        return feed_forward.geglu_eager(x)

    def compare(found, *_):
        if found.name != "geglu":
            raise proof.Refused("it is far from float64")
        return "as near as its twin"

    monkeypatch.delenv("UNET_MOTION_KERNELS", raising=False)
    monkeypatch.setattr(proof, "_proofs", {})
    monkeypatch.setattr(proof, "_compare", compare)
    monkeypatch.setattr(dispatch, "unavailable", lambda device: None)
    monkeypatch.setattr(feed_forward, "geglu_kernel", kernel)
    return launched


def test_without_the_node_a_model_samples_on_what_is_proven(base, on_a_card, monkeypatch):
    found = sampled(base)
    assert on_a_card and {name for name, *_ in proof._proofs} >= {"geglu", "group_norm", "layer_norm"}
    del on_a_card[:]
    expected = sampled(run(base, kernels="eager")[0])
    assert not on_a_card and relative(found, expected) < 1e-5
    again = sampled(run(base, kernels="proven")[0])
    assert on_a_card and torch.equal(again, found)
    del on_a_card[:]
    monkeypatch.setenv("UNET_MOTION_KERNELS", "eager")
    assert torch.equal(sampled(base), expected) and not on_a_card


def test_the_report_says_what_was_proven_and_why_not_the_rest(base, on_a_card):
    lines = [line.split(maxsplit=1) for line in run(base)[1].splitlines() if line.startswith("  ")]
    found = dict(lines)
    assert found["geglu"] == "triton: proven: as near as its twin"
    assert found["group_norm"] == "eager: it is far from float64"


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_the_report_is_of_the_dtype_that_is_computed_in(cast, base):
    """Weights of float32, activations as the node Model Compute Dtype or ComfyUI asks for."""
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    assert run(base)[1].startswith("cpu, float32;")
    name = str(cast).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")
    model = ModelComputeDtype().patch(base, name)[0]
    assert model.model_dtype() == torch.float32
    assert run(model)[1].startswith(f"cpu, {str(cast).removeprefix('torch.')};")


@pytest.fixture
def compiled(base, monkeypatch):
    """A MODEL that an earlier node compiles."""
    return run(base, compile="inductor")[0]


def test_of_a_compiled_model_nothing_is_proven(compiled, base, on_a_card):
    """Its code uses none of the kernels, whatever the environment asks for."""
    for text in (run(base, compile="inductor")[1], run(compiled)[1], run(compiled, kernels="eager")[1]):
        head, *lines = text.splitlines()
        assert head.startswith("Compiled by torch.compile") and lines[0].startswith("cpu, float32;")
        assert not proof._proofs and "proven: " not in text
    assert "proven: as near as its twin" in run(compiled, compile="off")[1]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"compile": "inductor"}, {"kernels": "triton"}, "An earlier node compiles this model and `kernels`"),
        ({"compile": "inductor"}, {"kernels": "proven"}, "An earlier node compiles this model and `kernels`"),
        ({"compile": "inductor"}, {"cuda_graphs": True}, "An earlier node compiles this model and `cuda_graphs`"),
        ({"kernels": "proven"}, {"compile": "inductor"}, "`compile` is 'inductor' and an earlier node set `kernels`"),
    ],
)
def test_a_choice_that_an_earlier_node_takes_away_is_refused(first, second, message, base, monkeypatch):
    monkeypatch.setattr("pack.nodes.performance.why_not", lambda *_: None)
    model = run(base, **first)[0]
    with pytest.raises(ValueError) as error:
        run(model, **second)
    assert str(error.value).startswith(message) and "which compiled code does not use: choose one" in str(error.value)


def test_a_choice_that_is_taken_back_stands_in_no_ones_way(compiled, base, monkeypatch):
    monkeypatch.setattr("pack.nodes.performance.why_not", lambda *_: None)
    assert performance.is_compiled(compiled) and not performance.is_compiled(base)
    assert not performance.is_compiled(run(compiled, compile="off", kernels="proven", cuda_graphs=True)[0])
    graphs = run(base, kernels="proven", cuda_graphs=True)[0]
    assert performance.is_compiled(run(graphs, compile="inductor", kernels="eager")[0])
    assert performance.is_compiled(run(compiled, kernels="eager", chunk_size=2)[0])


def test_on_a_cpu_there_is_nothing_to_choose(base, monkeypatch, caplog):
    monkeypatch.delenv("UNET_MOTION_KERNELS", raising=False)
    with caplog.at_level(logging.INFO):
        found = sampled(run(base, kernels="proven")[0])
        assert torch.equal(sampled(base), found)
    assert not proof._proofs and not [r for r in caplog.records if "proof" in r.name or "dispatch" in r.name]
    assert torch.equal(sampled(run(base, kernels="eager")[0]), found)
    assert "Triton" in run(base)[1]


def test_a_compiled_model_gives_the_same_values_and_off_takes_it_away(base, monkeypatch):
    graphs, given, set_wrapper = [], [], performance.set_torch_compile_wrapper
    # Products in place of convolutions are no part of compiled code.
    monkeypatch.setattr(convolution, "FEW_PIXELS", 0)
    # ComfyUI's attention of graphics cards; that of CPUs asks for free memory, which no compiler traces.
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy.ldm.modules.attention, name, comfy.ldm.modules.attention.attention_pytorch)

    def backend(graph, _, **__):
        graphs.append(graph)
        return graph.forward

    def with_backend(model, backend_name, options):
        given.append((backend_name, {k for k in options if k != "guard_filter_fn"}))
        set_wrapper(model=model, backend=backend, options={"guard_filter_fn": options["guard_filter_fn"]})

    monkeypatch.setattr(
        performance, "set_torch_compile_wrapper", lambda model, backend, options: with_backend(model, backend, options)
    )
    torch.compiler.reset()
    try:
        expected = sampled(base)
        model = run(base, compile="inductor")[0]
        found = sampled(model)
        assert relative(found, expected) < 1e-5 and len(graphs) == 1, "the whole UNet, once"
        assert relative(sampled(run(model)[0]), expected) < 1e-5 and len(graphs) == 1
        assert torch.equal(sampled(run(model, compile="off")[0]), expected)
        run(base, compile="inductor max-autotune")
        assert given == [("inductor", set()), ("inductor", {"max_autotune", "coordinate_descent_tuning"})]
    finally:
        torch.compiler.reset()


def test_the_given_model_stays_as_it_was_and_zero_leaves_the_chunking(base):
    chunked = run(base, chunk_size=2)[0]
    assert chunked.model_options["transformer_options"]["unet_motion"]["chunking"] == {"size": 2, "dim": 0}
    again = run(chunked)[0]
    assert again.model_options["transformer_options"]["unet_motion"]["chunking"] == {"size": 2, "dim": 0}
    assert "unet_motion" not in base.model_options["transformer_options"]
    assert relative(sampled(chunked), sampled(base)) < 1e-5


def test_the_report_says_what_each_operation_runs(base):
    text = run(base, kernels="eager")[1]
    assert text.startswith("cpu, float32;") and "temporal_attention" in text and "sdpa" in text


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"kernels": "triton"}, "`kernels` is 'triton', which cannot run on cpu: Triton has no backend here for cpu."),
        ({"cuda_graphs": True}, "`cuda_graphs` is on, but there are no CUDA graphs on cpu; turn it off."),
        ({"kernels": "fast"}, "`kernels` is 'fast', expected one of unchanged, eager, triton, proven."),
        ({"compile": "inductor", "cuda_graphs": True}, "`compile` is 'inductor' and `cuda_graphs` is on, which"),
        ({"compile": "inductor", "kernels": "triton"}, "`compile` is 'inductor' and `kernels` is 'triton', which"),
        ({"compile": "inductor", "kernels": "proven"}, "`compile` is 'inductor' and `kernels` is 'proven', which"),
    ],
)
def test_choices_that_cannot_act_are_refused(chosen, message, base):
    with pytest.raises(ValueError) as error:
        run(base, **chosen)
    assert str(error.value).startswith(message)


def test_a_model_without_motion_modules_is_refused():
    with pytest.raises(ValueError, match="without motion modules"):
        run(sd15())


def test_graphs_run_a_step_only_where_they_are_chosen(base, recorder):
    view = base.model.diffusion_model
    assert performance.step_of(view, {}) == view.core.forward_frames
    assert performance.step_of(view, {"cuda_graphs": False}) == view.core.forward_frames and view.graphs is None
    graphs = performance.step_of(view, {"cuda_graphs": True})
    assert graphs is view.graphs is not None and performance.step_of(view, {"cuda_graphs": True}) is graphs
    assert performance.step_of(view, {}) == view.core.forward_frames
