"""The process with ComfyUI in it, which `comfyui.py` starts with a request in JSON."""

from __future__ import annotations

import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...formats.names.animatediff import diffusers_to_animatediff
from ..cases import NotMeasured
from ..evolved_process import comfyui_model, import_comfyui
from ..nets import TEXT_TOKENS, TEXT_WIDTH
from .networks import build

PACK = "unet_motion_pack"
MODULES = "unet_motion_card.safetensors"


def import_pack(folder: Path) -> None:
    """Import the pack as ComfyUI does: a package, with `nodes` and `unet_motion` inside."""
    spec = importlib.util.spec_from_file_location(
        PACK, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def node_module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACK}.nodes.{name}")


def motion_model(request: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A MODEL with motion modules, made by ComfyUI's loader and this pack's nodes."""
    import folder_paths

    ours = build({"block_out_channels": tuple(request["widths"]), "cross_attention_dim": TEXT_WIDTH}, device, dtype)
    motion = {name: tensor for name, tensor in ours.state_dict().items() if ".motion_modules." in name}
    named = {name: tensor.cpu().clone() for name, tensor in diffusers_to_animatediff(motion).items()}
    save_file(named, Path(request["folder"]) / MODULES)
    folder_paths.add_model_folder_path("animatediff_models", request["folder"])
    loading = node_module("loading")
    modules = loading.LoadMotionModule.execute(MODULES)[0]
    return loading.ApplyMotionModule.execute(comfyui_model(ours, dtype), modules, "auto", "auto")[0]


def in_way(model: Any, settings: dict[str, Any] | None) -> Any:
    """The MODEL behind the pack's nodes of speed, or as it is."""
    if settings is None:
        return model
    if settings["kernels"] == "triton":
        model = node_module("options").AttentionProcessor.execute(model, "auto", "triton")[0]
    return node_module("performance").Performance.execute(model, compile="unchanged", chunk_size=0, **settings)[0]


def sampled(model: Any, request: dict[str, Any], device: torch.device) -> tuple[Tensor, list[float]]:
    """The latents of a run of KSampler's, and when each step was over."""
    import comfy.sample

    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(request["frames"], 4, request["side"], request["side"], generator=generator)
    texts = [[[torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=generator), {}]] for _ in range(2)]
    ends = [time.perf_counter()]

    def over(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    latents = comfy.sample.sample(
        model, noise, request["steps"], 7.5, "euler", "normal", *texts, torch.zeros_like(noise), disable_pbar=True,
        seed=1, callback=over,
    )  # fmt: skip
    return latents.float().cpu(), ends


@torch.inference_mode()
def measure(request: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each way."""
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    import_comfyui(request["comfyui"], device, dtype)
    import_pack(Path(request["pack"]))
    model, rows, expected = motion_model(request, device, dtype), [], None

    def ways(model: Any, words: str) -> None:
        nonlocal expected
        for way, settings in request["modes"].items():
            rows.append({"way": way + words})
            with failing(rows[-1]):
                chosen = in_way(model, settings)
                sampled(chosen, request, device)  # loads the model, compiles kernels
                expected = fill(rows[-1], chosen, request, device, expected)

    ways(model, "")
    row = {"way": "dynamic memory"}
    with failing(row):
        start_dynamic_memory(device)
        ways(motion_model(request, device, dtype), ", dynamic memory")
    return rows if "result" not in row else [*rows, row]


@contextmanager
def failing(row: dict[str, Any]) -> Iterator[None]:
    """An error becomes the row's."""
    try:
        yield
    except NotMeasured as reason:
        row["result"] = f"not measured: {reason}"
    except Exception as error:
        row["result"] = f"failed: {type(error).__name__}: {str(error)[:200]}"


def start_dynamic_memory(device: torch.device) -> None:
    """Turn on what ComfyUI's server turns on when it starts on an NVIDIA card; models that are made later use it.

    Raises:
        NotMeasured: this ComfyUI or this machine has none.
    """
    import comfy.memory_management
    import comfy.model_patcher

    if device.type != "cuda" or not hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
        raise NotMeasured("there is none here")
    control = importlib.import_module("comfy_aimdo.control")
    control.init()
    index = device.index or 0
    try:
        started = control.init_devices([(index, 0)])  # with the room that others keep
    except TypeError:  # older ones take the devices alone
        started = control.init_devices([index])
    if not started:
        raise NotMeasured("comfy-aimdo does not start")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def fill(
    row: dict[str, Any], model: Any, request: dict[str, Any], device: torch.device, expected: Tensor | None
) -> Tensor:
    """Put the figures of a way into its row; gives the latents that the next ways are compared with."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    latents, ends = sampled(model, request, device)
    row["ms a step"] = 1e3 * statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False))
    if not bool(latents.isfinite().all()):
        raise ValueError("the latents are not finite")
    if expected is not None:
        row["error"] = float((latents - expected).norm() / expected.norm())
    # Both conditions of a frame in one batch, as KSampler runs them where memory allows.
    estimate = model.memory_required([2 * request["frames"], 4, request["side"], request["side"]])
    row["estimated MiB"] = round(estimate / 2**20)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - held
        row["peak MiB"], row["peak of estimate"] = round(peak / 2**20), peak / estimate
    row["memory_usage_factor"] = float(model.model.model_config.memory_usage_factor)
    row["dynamic memory"] = bool(getattr(model, "is_dynamic", bool)())
    return latents if expected is None else expected


def main() -> None:
    request = json.loads(sys.argv[1])
    rows = measure(request)
    Path(request["answer"]).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
