"""Which path each operation takes on a machine, and why not a faster one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ..values import quoted
from . import feed_forward, float8, freeu, group_norm, layer_norm, residual
from .attention import temporal
from .attention.cpu_short import MOST_WIDENED, SHORT
from .attention.processors import OPTIONAL, PROCESSORS
from .dispatch import KERNELS, Kernel, interpreted
from .mode import PROVEN, current_mode
from .proof import cannot_be_proven, proof_of
from .tuning import is_chosen, measured_sizes

WITH_KERNELS = (feed_forward, float8, freeu, group_norm, layer_norm, residual, temporal)
"""The modules that register a kernel, so that all are registered before a report is made."""


def operations() -> tuple[str, ...]:
    """The names of all kernels, in order."""
    return tuple(sorted(KERNELS))


@dataclass(frozen=True)
class Path:
    """What runs for one operation or attention processor.

    Attributes:
        runs: "triton" or "eager" for an operation; "yes" or "no" for a processor.
        note: why not faster code, why not at all, or what it does not take; "" where there is nothing to say.
    """

    runs: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.runs}: {self.note}" if self.note else self.runs


@dataclass(frozen=True)
class Report:
    """The answer of :func:`report`; as a string, a text for people.

    Attributes:
        device: its name.
        dtype: that the answer is for.
        versions: of torch and of the optional packages, None where one is not installed.
        operations: by name of the kernel.
        attention: by name of the processor, those that are not installed too.
    """

    device: str
    dtype: str
    versions: dict[str, str | None]
    operations: dict[str, Path]
    attention: dict[str, Path]

    def as_dict(self) -> dict:
        """The report as plain dictionaries and strings, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in self.versions.items())
        lines = [f"{self.device}, {self.dtype}; {versions}"]
        for title, paths in (("Operations", self.operations), ("Attention processors", self.attention)):
            width = max(map(len, paths))
            lines += ["", title, *(f"  {name:<{width}}  {path}" for name, path in paths.items())]
        return "\n".join(lines)


def report(device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Report:
    """What each operation and each attention processor does on a device.

    In the mode "proven" each kernel is proven now that was not before, which may compile for seconds; else nothing is
    launched.

    Args:
        device: default: the GPU where there is one, else the CPU.
        dtype: of the activations; default: float16 on a GPU, float32 on a CPU.

    Raises:
        ValueError: no such device is known or there.
    """
    device = _device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    gpu = device.type == "cuda" and torch.cuda.is_available()
    return Report(
        device=torch.cuda.get_device_name(device) if gpu else device.type,
        dtype=str(dtype).removeprefix("torch."),
        versions={"torch": torch.__version__, **{p: _version(p) for p in ("triton", "xformers", "sageattention")}},
        operations={name: _operation(kernel, device, dtype) for name, kernel in sorted(KERNELS.items())},
        attention=_attention(device, dtype),
    )


def _device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device {quoted(name)} is unknown; expected one such as cpu or cuda:0.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {quoted(str(name))} is not there; found {torch.cuda.device_count()} GPUs.")
    return device


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _operation(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Path:
    mode = current_mode()
    reason = cannot_be_proven(kernel, device, dtype) if mode == PROVEN else kernel.lacks(device, dtype)
    if reason is None and mode == "eager" and not kernel.by_processor:
        reason = 'not asked for (use("proven") or UNET_MOTION_KERNELS=proven)'
    sizes = measured_sizes(kernel.name, device, dtype) if reason is None and kernel.measured else []
    if reason is None and kernel.measured and not sizes and not is_chosen(kernel.name, device, dtype):
        reason = "not measured to be faster than what it replaces on such a device (no entry in unet_motion/ops/tuned)"
    if reason:
        return Path("eager", reason)
    if mode == PROVEN:
        return _proven(kernel, device, dtype, sizes)
    where = f"at the {len(sizes)} sizes where it was measured to be faster" if sizes else ""
    if kernel.by_processor:
        where = 'in layers with the attention processor "triton"'
    return Path("triton", _joined(where, "interpreted, for tests only" if interpreted() else ""))


def _proven(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, sizes: Sequence[Mapping[str, int]]
) -> Path:  # fmt: skip
    """What was proven, for a kernel that is measured at each of its sizes."""
    proofs = [proof_of(kernel, device, dtype, each) for each in sizes or [{}]]
    taken = [proof for proof in proofs if proof.taken]
    if not taken:
        return Path("eager", proofs[-1].note)
    where = f"at {len(taken)} of the {len(sizes)} sizes where it was measured to be faster" if sizes else ""
    return Path("triton", _joined(where, f"proven: {taken[-1].note}"))


def _joined(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _attention(device: torch.device, dtype: torch.dtype) -> dict[str, Path]:
    paths = {}
    for name, processor in PROCESSORS.items():
        reason = processor.declines(device, dtype)
        paths[name] = Path("no", reason) if reason else Path("yes", "; ".join(_limits(processor, device)))
    for kind, package in OPTIONAL.items():
        if kind.name not in paths:
            paths[kind.name] = Path("no", f"package {package} is not installed")
    chosen = "as sdpa"
    if device.type == "cpu" and dtype in (torch.float32, torch.float64):
        chosen = f"as two batched products up to {SHORT} frames, else as sdpa"
    elif device.type == "cpu" and dtype == torch.bfloat16:
        chosen = (
            f"as two batched products in float32 up to {SHORT} frames where frames x frames x channels of a head are "
            f"at most {MOST_WIDENED}, else as sdpa"
        )
    if current_mode() == PROVEN and cannot_be_proven(temporal.TEMPORAL_ATTENTION, device, dtype) is None:
        if proof_of(temporal.TEMPORAL_ATTENTION, device, dtype).taken:
            chosen = f"over frames as triton up to {temporal.MOST_FRAMES}, else {chosen}"
    paths["auto"] = Path("yes", chosen)
    return paths


def _limits(processor, device: torch.device) -> list[str]:
    limits = ["no mask"] if device.type in processor.without_masks else []
    if processor.most_channels is not None and device.type == "cuda":
        limits.append(f"heads up to {processor.most_channels} channels")
    return limits
