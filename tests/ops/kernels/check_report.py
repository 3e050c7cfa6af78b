"""The report of what runs on a machine, as an object, as text and from the command line."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from poison import DEVICE

from unet_motion import kernels
from unet_motion.cli import main
from unet_motion.ops import dispatch
from unet_motion.ops.attention.processors import PROCESSORS

NAMES = ("float8", "freeu", "geglu", "geglu_product", "group_norm", "layer_norm", "residual_sum", "temporal_attention")


@pytest.fixture(autouse=True)
def triton_kernels():
    with kernels.use("triton"):
        yield


def test_the_report_names_each_operation_and_processor():
    found = kernels.report(DEVICE, torch.float32)
    assert tuple(found.operations) == NAMES
    # It runs where it was measured alone: check_geglu_product.py.
    assert {name for name, path in found.operations.items() if path.runs != "triton"} == {"geglu_product"}
    assert set(found.attention) == {*PROCESSORS, "xformers", "sage"}
    assert found.attention["triton"].runs == found.attention["math"].runs == "yes"
    for name in ("xformers", "sage"):
        if name not in PROCESSORS:
            assert "is not installed" in found.attention[name].note
    text = str(found)
    assert all(name in text for name in (*NAMES, *found.attention))
    assert json.loads(json.dumps(found.as_dict()))["operations"]["geglu"]["runs"] == "triton"
    with kernels.use("eager"):
        eager = kernels.report(DEVICE)
    assert eager.operations["geglu"].runs == "eager" and "not asked for" in eager.operations["geglu"].note
    assert eager.operations["temporal_attention"].runs == "triton"
    assert "no kernel for torch.float64" in kernels.report(DEVICE, torch.float64).operations["freeu"].note


def test_the_report_tells_why_a_machine_has_no_fast_path(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = kernels.report("cpu")
    assert {path.note for path in cpu.operations.values()} == {"Triton has no backend here for cpu"}
    assert cpu.attention["triton"].note == "Triton has no backend here for cpu"
    assert cpu.attention["mem_efficient"].runs == "no"
    assert "two batched products up to 64" in cpu.attention["auto"].note
    assert "two batched products in float32" in kernels.report("cpu", torch.bfloat16).attention["auto"].note
    assert kernels.report("cpu", torch.float16).attention["auto"].note == "as sdpa"
    monkeypatch.setattr(dispatch, "TRITON_IS_THERE", False)
    assert kernels.report("cpu").operations["geglu"].note == "Triton is not installed"
    assert PROCESSORS["flash"].declines(torch.device("cuda"), torch.float32) == "no kernel for torch.float32 on cuda"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    reason = PROCESSORS["flash"].declines(torch.device("cuda"), torch.float16)
    assert reason == "it needs compute capability 8.0, found 7.5"


def test_the_command_line_prints_the_report(capsys):
    assert main(["kernels", "--device", "cpu", "--dtype", "bfloat16", "--mode", "eager"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("cpu, bfloat16; torch ") and "Attention processors" in text
    command = [sys.executable, "-m", "unet_motion", "kernels", "--device", "cpu", "--json"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert tuple(json.loads(alone)["operations"]) == NAMES
    assert main(["kernels", "--device", "abacus"]) == 2
    assert "device 'abacus' is unknown" in capsys.readouterr().err


def test_a_device_that_there_is_not_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:3", torch.device("cuda", 1), 0):
        with pytest.raises(ValueError, match=r"device '(cuda.*|0)' is not there; found 0 GPUs\."):
            kernels.report(device)
    with pytest.raises(ValueError, match="device 'nonsense' is unknown; expected one such as cpu or cuda:0"):
        kernels.report("nonsense")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert dispatch.unavailable(torch.device("cuda")) == "torch finds no card"
