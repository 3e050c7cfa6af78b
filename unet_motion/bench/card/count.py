"""Launches, bytes and arithmetic of a step on a graphics card, counted without one: the real code on tensors without
memory, each operator as torch runs it on CUDA. Times are estimates from assumed rates, never measurements.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ... import UNetMotionModel
from ...model import float8_products
from ...ops import layer
from ...ops.linear import float8
from ...ops.tuning import choosing
from .networks import Steps, inputs_of
from .sizes import REAL, Sizes

BYTES = 4.3e12
"""Bytes a second that a large copy moves on an H200 (assumed)."""

ARITHMETIC = 780e12
"""Floating-point operations a second of a large product in 16 bits on an H200 (assumed)."""

REACHED = {"product": 0.80, "convolution": 0.75, "attention": 0.62, "pass": 1.0, "float8 product": 0.77}
"""The share of the rate that each kind of launch comes to (assumed); a pass computes nothing that counts."""

FASTER = {"float8 product": 2.0}
"""How many times ARITHMETIC the rate of a kind is (assumed); of others once."""

HEAD = 64
"""Channels of a head are filled up to a multiple of these in torch's attention."""


@dataclass(frozen=True)
class Launch:
    """One kernel.

    Attributes:
        kind: of REACHED.
        moved: bytes read and written.
        work: floating-point operations that are asked for.
        done: those that are computed, where tiles are filled up.
        source: tells what it reads first, to find products that read the same.
        written: of ``moved``, what is written.
    """

    name: str
    kind: str
    moved: int
    work: float = 0.0
    done: float = 0.0
    source: int = 0
    written: int = 0

    @property
    def seconds(self) -> float:
        return max(self.done / (self.rate * REACHED[self.kind]), self.moved / BYTES)

    @property
    def rate(self) -> float:
        """Operations a second of this kind, were they all that takes time."""
        return ARITHMETIC * FASTER.get(self.kind, 1.0)


def size(*tensors: Tensor) -> int:
    """Bytes; what is repeated by a stride of 0 lies there once."""
    entries = (math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step or n == 0) for t in tensors)
    return sum(count * t.element_size() for count, t in zip(entries, tensors, strict=True))


def flat(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)


aten = torch.ops.aten
FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "_unsafe_view"}
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}
SCALED = {"_scaled_mm", "_scaled_mm_v2"}


class Card(TorchDispatchMode):
    """Notes what a card would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def add(self, name: str, kind: str, reads: Any, writes: Any, work: float = 0.0, filled: float = 1.0) -> None:
        """Note a launch; ``filled`` times the work is computed."""
        read, wrote = list(flat(reads)), list(flat(writes))
        source = id(read[0].untyped_storage()) if read else 0
        self.launches.append(Launch(name, kind, size(*read, *wrote), work, work * filled, source, size(*wrote)))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if func is aten.convolution.default:
            return self.convolution(*args)
        out = func(*args, **(kwargs or {}))
        written = list(flat(out))
        if func.is_view or name in FREE or not any(t.device.type == "cuda" for t in written):
            return out
        if func.namespace == "unet_motion":
            self.of_triton(name, args, out)
        elif name in PRODUCTS:
            self.product(name, args, out)
        elif name in SCALED:
            read = list(flat([*args, *(kwargs or {}).values()]))
            self.add("product in float8", "float8 product", read, out, 2.0 * out.numel() * args[0].shape[-1])
        elif name == "native_group_norm":
            self.add(name + " statistics", "pass", args[0], ())
            self.add(name + " scale and shift", "pass", out[1:], ())
            self.add(name + " apply", "pass", args[0], out[0])
        else:
            read = list(flat([*args, *(kwargs or {}).values()]))
            self.add(name, "pass", read[1:] if name == "copy_" else read, out)
        return out

    def product(self, name: str, args: tuple, out: Tensor) -> None:
        first, second = args[-2:]
        read = [first, second]
        if name in ("addmm", "addmm_"):
            read.append(args[0])
            if name == "addmm" and args[0].dim() > 1:
                self.add("copy of the summand", "pass", args[0], out)
        self.add(name, "product", read, out, 2.0 * out.numel() * first.shape[-1])

    def convolution(self, x, weight, bias, stride, padding, dilation, transposed, output_padding, groups) -> Tensor:
        """cuDNN's, in the memory order of input or weights: what lies in another is copied, and the bias is added."""
        last, first = torch.channels_last, torch.contiguous_format
        found = any(t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in (x, weight))
        order = last if found else first
        for what, tensor in (("input", x), ("weights", weight)):
            if not tensor.is_contiguous(memory_format=order):
                self.add(f"copy of a convolution's {what}", "pass", tensor, tensor)
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        ]
        out = x.new_empty(x.shape[0], weight.shape[0], *sizes).contiguous(memory_format=order)
        self.add("convolution", "convolution", (x, weight), out, 2.0 * out.numel() * weight[0].numel())
        if bias is not None:
            self.add("a convolution's bias", "pass", (out, bias), out)
        return out

    def of_triton(self, name: str, args: tuple, out: Any) -> None:
        if name == "temporal_attention":
            query = args[0]
            work = 4.0 * query.numel() * query.shape[-2]
            self.add(name, "attention", args[:3], out, work)
        elif name == "geglu_product":
            self.add(name, "product", args, out, 4.0 * out.numel() * args[0].shape[-1])
        elif name == "group_norm":
            from ...ops.group_norm.triton import one_launch

            _, rows, channels = args[0].shape
            if one_launch(rows, channels, args[3]):
                self.add(name, "pass", args[0], out)
            else:
                self.add(name + " statistics", "pass", args[0], ())
                self.add(name + " combine", "pass", (), ())
                self.add(name + " apply", "pass", args[0], out)
        else:
            self.add(name, "pass", args, out)


class AsOnCuda(TorchFunctionMode):
    """Attention as torch's fused kernel, and addresses for tensors that have none."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.data_ptr:
            return (id(args[0].untyped_storage()) << 40) + args[0].storage_offset() * args[0].element_size()
        if func is F.scaled_dot_product_attention:
            return self.attention(*args[:3])
        return func(*args, **(kwargs or {}))

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n, heads, length, width = query.shape
        out = query.new_empty(n, length, heads, width).transpose(1, 2)
        filled = -(-width // HEAD) * HEAD / width
        self.card.add("attention", "attention", (query, key, value), out, 4.0 * out.numel() * key.shape[2], filled)
        return out


@contextmanager
def without_a_card() -> Iterator[Card]:
    """Within it tensors on "cuda" have no memory, and what runs on them is counted."""
    card = Card()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)))
        stack.enter_context(mock.patch.object(layer, "WEIGHTS", (nn.Parameter, FakeTensor)))
        stack.enter_context(mock.patch.object(float8, "product_on", lambda _: float8.scaled_mm_operator))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(AsOnCuda(card))
        stack.enter_context(card)
        yield card


@dataclass(frozen=True)
class Count:
    """A step's launches, bytes, arithmetic, and what these come to at the assumed rates."""

    launches: list[Launch]

    @property
    def moved(self) -> int:
        return sum(launch.moved for launch in self.launches)

    @property
    def work(self) -> float:
        return sum(launch.work for launch in self.launches)

    @property
    def seconds(self) -> float:
        return sum(launch.seconds for launch in self.launches)

    def floor(self) -> float:
        """Seconds of the larger of arithmetic and bytes of each fused region: a convolution, attention, or the products
        that read one input, with all that lies between two of those in the first one's end or the second one's start.
        """
        regions: list[list[Launch]] = []
        for launch in self.launches:
            if launch.kind == "pass":
                continue
            last = regions[-1][-1] if regions else None
            if last and last.kind == launch.kind and "product" in launch.kind and last.source == launch.source:
                regions[-1].append(launch)
            else:
                regions.append([launch])
        return sum(map(_least, regions))


def _least(region: list[Launch]) -> float:
    """Of several products of one input that is read once: the weights of all stay with the later ones, at most."""
    shared = sum(launch.moved for launch in region)
    if len(region) > 1:
        shared = region[0].moved + sum(launch.written for launch in region[1:])
    return max(sum(launch.work / launch.rate for launch in region), shared / BYTES)


def count(work: Callable[[], Any], card: Card) -> Count:
    del card.launches[:]
    work()
    return Count(list(card.launches))


def steps(sizes: Sizes = REAL, side: int | None = None, dtype: torch.dtype = torch.float16) -> dict[str, Count]:
    """The ways of a step of the network in ``sizes``, with latents of a side, by name."""
    with without_a_card() as card:
        device = torch.device("cuda", 0)
        unet = UNetMotionModel(**sizes.network, dtype=dtype, device=device).eval().requires_grad_(False)
        unet.arrange_weights()
        ways = Steps(unet, None)
        given = inputs_of(sizes, side or sizes.sides[0], device, dtype)
        wanted = {way: step for way, step in ways.ways().items() if "graph" not in way}
        wanted["kernels, GEGLU inside the product"] = partial(inside, wanted["kernels"])
        counts = {way: count(partial(step, given), card) for way, step in wanted.items()}
        float8_products.convert(unet)
        return counts | {f"{way}, float8": count(partial(step, given), card) for way, step in wanted.items()}


def inside(step: Callable[..., Any], *given: Any) -> Any:
    """A step whose GEGLU is computed inside the product before it, as on a card where that was found to be faster."""
    with choosing("geglu_product"):
        return step(*given)


def table(counts: dict[str, Count]) -> str:
    lines = ["| way | launches | GB | TFLOP | estimated ms | floor ms | times the floor |", "|" + "---|" * 7]
    for way, found in counts.items():
        ms, floor = 1e3 * found.seconds, 1e3 * found.floor()
        figures = f"{len(found.launches)} | {found.moved / 1e9:.1f} | {found.work / 1e12:.1f} | {ms:.1f} | {floor:.1f}"
        lines.append(f"| {way} | {figures} | {ms / floor:.2f} |")
    return "\n".join(lines)


def details(found: Count) -> str:
    """A row for each name of a launch, those of the most time first."""
    groups: dict[str, list[Launch]] = defaultdict(list)
    for launch in found.launches:
        groups[launch.name].append(launch)
    lines = ["| launch | times | GB | estimated ms |", "|" + "---|" * 4]
    for name, group in sorted(groups.items(), key=lambda item: -sum(launch.seconds for launch in item[1])):
        moved, ms = sum(launch.moved for launch in group) / 1e9, 1e3 * sum(launch.seconds for launch in group)
        lines.append(f"| {name} | {len(group)} | {moved:.2f} | {ms:.2f} |")
    return "\n".join(lines)


def report(sizes: Sizes = REAL) -> str:
    """Tables of a step of every way; nothing in them was measured."""
    counts = steps(sizes)
    assumed = (
        f"Counted without a card. The times are estimates: {BYTES / 1e12:.1f} TB/s, {ARITHMETIC / 1e12:.0f} TFLOP/s, "
        f"of which products reach {REACHED['product']:.0%}, convolutions {REACHED['convolution']:.0%} and attention "
        f"{REACHED['attention']:.0%} with heads filled up to multiples of {HEAD} channels."
    )
    parts = [f"{way}\n\n{details(found)}" for way, found in counts.items()]
    return "\n\n".join([assumed, table(counts), *parts])
