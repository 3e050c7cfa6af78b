"""What the card is, and what it reaches at best."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import datetime, timezone

import torch

from ... import __version__
from ..measure import Ceilings
from ..report import machine
from .stages import Card, Found
from .timing import milliseconds

PACKAGES = ("torch", "triton", "diffusers", "einops", "safetensors", "numpy", "pillow")


def about(card: Card) -> dict[str, str]:
    """Device, versions and date of a run."""
    found = {"device": machine(card.device), "unet-motion": __version__, "python": platform.python_version()}
    if card.on_gpu:
        properties = torch.cuda.get_device_properties(card.device)
        found["compute capability"] = f"{properties.major}.{properties.minor}"
        found["CUDA"] = str(torch.version.cuda or torch.version.hip)
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return found


def stage(card: Card, found: Found) -> None:
    """The two ceilings and the free memory; the ceilings are kept for the other stages."""
    sizes, device = card.sizes, card.device
    a, b = (torch.randn(sizes.product, sizes.product, device=device).to(torch.bfloat16) for _ in range(2))
    took = milliseconds([lambda: a @ b], device, sizes.repeats)
    flops = 2 * sizes.product**3 / took * 1e3
    found.add(f"matrix product, bfloat16, {sizes.product} a side", ms=took, reached=f"{flops / 1e12:.4g} TFLOP/s")
    source = torch.zeros(sizes.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = milliseconds([lambda: target.copy_(source)], device, sizes.repeats)
    rate = 2 * sizes.copied / took * 1e3
    found.add(f"copy of {sizes.copied / 2**20:.0f} MiB, read and written", ms=took, reached=f"{rate / 1e9:.4g} GB/s")
    card.kept["ceilings"] = Ceilings(flops, rate)
    if card.on_gpu:
        free, whole = torch.cuda.mem_get_info(device)
        found.add("free memory", reached=f"{free / 2**30:.1f} of {whole / 2**30:.1f} GiB")
