"""Whole steps as CUDA graphs: the hundreds of launches of a step become one.

See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..forward.options import ForwardOptions
from ..lora.apply import applied_loras
from ..ops.freeu import FreeU
from ..ops.mode import current_mode
from .cuda_recorder import CudaRecorder, Recorder, Replay
from .known_layers import KnownLayers

Result = Tensor | tuple[Tensor, ...]
Graph = tuple[list[Tensor], Replay, Result]
"""Inputs that a replay reads, the replay, and what it fills."""

RETRY_AFTER = 16
"""Steps that run as they are after a failed capture, before the next try; twice as many after each further failure."""


class StepGraphs:
    """Calls a UNet's :meth:`forward_frames` through CUDA graphs, one for each shape of inputs and set of settings.

    A graph reads the weights where they lie, so weights that are edited in place act at once; weights that are
    replaced or moved, other options or settings, and other shapes are captured anew. A capture that failed, because
    another thread was in its way or memory was short, is tried again some steps later.

    Args:
        unet: the model.
        most: graphs that are kept; the one that was not used for longest goes first. Each holds the memory of a step.
        recorder: captures work; the default is CUDA's.
        step: what is captured, a function of the same arguments that gives a tensor or several; None is the UNet's
            ``forward_frames``.
    """

    def __init__(
        self, unet, most: int = 2, recorder: Recorder | None = None, step: Callable[..., Any] | None = None
    ) -> None:
        if most < 1:
            raise ValueError(f"`most` is {most}, expected at least 1.")
        self.unet = unet
        self.most = most
        self._step = step
        self._recorder = recorder
        self._record = recorder or CudaRecorder()
        self._graphs: OrderedDict[tuple, Graph] = OrderedDict()
        self._failures = 0
        self._wait = 0
        self._layers = KnownLayers(unet)

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all graphs and give their memory back."""
        self._graphs.clear()
        self._failures = self._wait = 0
        self._record = self._recorder or CudaRecorder()

    def declines(self, sample: Tensor, options: ForwardOptions | None = None) -> str | None:
        """Why a step cannot be captured, or None."""
        if self._recorder is None and sample.device.type != "cuda":
            return f"there are no CUDA graphs on {sample.device.type}"
        if torch.is_grad_enabled():
            return "gradients are asked for"
        if torch.compiler.is_compiling():
            return "it is being compiled"
        if options is not None and options.hooks is not None and options.hooks.replayable() is None:
            return "a host's hooks may do another thing in each step"
        if options is not None and options.frame_positions is not None:
            return "`frame_positions` are checked on the host"
        if options is not None and (options.views is not None or options.frames_at_once is not None):
            return "a call in parts would take a graph for each way to cut it"
        if options is not None and options.more_motion:
            return "further motion modules lie outside of the model, whose weights alone are looked after"
        return "an earlier capture failed; it is tried again later" if self._wait else self._declines_layers()

    def _declines_layers(self) -> str | None:
        """Why code in or at the layers might do another thing in each step, or None."""
        self._layers = self._layers.now()
        layer = self._layers.with_other_code()
        if layer is not None:
            return f"a {type(layer).__name__} layer runs code that is not its own"
        if any(isinstance(lora.strength, Tensor) for lora in applied_loras(self.unet)):
            return "a motion LoRA has a strength for each frame"
        return None

    def __call__(
        self, sample: Tensor, timestep: Tensor | float | int, text: Tensor, num_frames: int, *,
        options: ForwardOptions | None = None, **conditioning: Any,
    ) -> Any:  # fmt: skip
        """As :meth:`UNetMotionModel.forward_frames`, (B*F, C, H, W) -> (B*F, C, H, W), or as ``step``."""
        step = self._step or self.unet.forward_frames
        if self.declines(sample, options) is not None:
            self._wait = max(0, self._wait - 1)
            return step(sample, timestep, text, num_frames, options=options, **conditioning)
        if options is not None and options.text_keys is not None:
            options = replace(options, text_keys=None)  # what is kept outside of a graph would be frozen into it
        timestep = torch.as_tensor(timestep, device=sample.device)
        given = [sample, timestep, text, conditioning, _data(options, sample.device)]
        tensors = list(_tensors(given))
        key = (num_frames, _structure(given), self._settings(options), self._layers.places())
        graph = self._graphs.pop(key, None) or self._capture(given, tensors, num_frames, options)
        if graph is None:
            return step(sample, timestep, text, num_frames, options=options, **conditioning)
        self._graphs[key] = graph  # behind those that were not used for longer
        inputs, replay, out = graph
        for held, tensor in zip(inputs, tensors, strict=True):
            held.copy_(tensor)
        replay()
        return _filled(out, iter([tensor.clone() for tensor in _tensors(out)]))

    def _capture(self, given, tensors: Sequence[Tensor], frames: int, options) -> Graph | None:
        while len(self._graphs) >= self.most:
            self._graphs.popitem(last=False)
        with torch.inference_mode(False), torch.no_grad():
            # Plain tensors, that may be written outside of inference mode too.
            inputs = [torch.empty_like(tensor).copy_(tensor) for tensor in tensors]
            sample, timestep, text, conditioning, data = _filled(given, iter(inputs))
            options = _with_data(options, data)

            step = self._step or self.unet.forward_frames

            def work() -> Result:
                return step(sample, timestep, text, frames, options=options, **conditioning)

            try:
                replay, out = self._record(work, sample.device)
            except RuntimeError as error:
                self._wait = RETRY_AFTER * 2**self._failures
                self._failures += 1
                warnings.warn(
                    f"a step could not be captured as a CUDA graph and runs without, the next {self._wait} too: "
                    f"{error}",
                    stacklevel=4,
                )
                return None
        self._failures = 0
        return inputs, replay, out

    def _settings(self, options: ForwardOptions | None) -> tuple:
        unet = self.unet
        processors = tuple(attention.processor for _, attention in unet.attention_layers)
        chosen = None if options is None else _choices(options)
        loras = tuple(part for lora in applied_loras(unet) for part in (lora, _number(lora.strength)))
        return (unet.defaults, processors, _Same((chosen, loras)), current_mode())


def _choices(options: ForwardOptions) -> tuple:
    """What a graph is made for in options; the objects themselves, so that no other can come to lie where they lay."""
    rules = () if options.plan is None else options.plan.rules
    loras = [
        (_number(lora.strength), *(part for path, pair in lora.layers.items() for part in (path, *pair)))
        for lora in options.motion_loras
    ]
    amounts = [(_number(amount.scale), _number(amount.effect), *amount.blocks) for amount in options.motion_amounts]
    return (
        options.freeu,
        tuple(part for rule in rules for part in (rule.pattern, rule.processor)),
        tuple(loras),
        tuple(amounts),
        options.forward_chunking,
        options.resnet_norm_scope,
        options.motion_norm_scope,
        None if options.hooks is None else options.hooks.replayable(),
    )


def _number(strength: float | Tensor) -> str | None:
    return None if isinstance(strength, Tensor) else repr(float(strength))


def _data(options: ForwardOptions | None, device: torch.device) -> list[Tensor | None]:
    """The tensors in options, which may be others in each step: whether FreeU acts, strengths of LoRAs and motion."""
    if options is None:
        return []
    found = [options.freeu.active if isinstance(options.freeu, FreeU) else None]
    found += [lora.strength if isinstance(lora.strength, Tensor) else None for lora in options.motion_loras]
    for amount in options.motion_amounts:
        found += [value if isinstance(value, Tensor) else None for value in (amount.scale, amount.effect)]
    return [None if tensor is None else tensor.to(device) for tensor in found]


def _with_data(options: ForwardOptions | None, data: Sequence[Tensor | None]) -> ForwardOptions | None:
    """The same options with the tensors of :func:`_data` in their places."""
    if options is None:
        return None
    active, *rest = data
    strengths, values = rest[: len(options.motion_loras)], rest[len(options.motion_loras) :]
    pairs = zip(options.motion_loras, strengths, strict=True)
    loras = tuple(lora if strength is None else lora.at(strength) for lora, strength in pairs)
    freeu = options.freeu
    if active is not None and isinstance(freeu, FreeU):
        freeu = replace(freeu, active=active)
    triples = zip(options.motion_amounts, values[::2], values[1::2], strict=True)
    amounts = tuple(
        replace(a, scale=a.scale if scale is None else scale, effect=a.effect if effect is None else effect)
        for a, scale, effect in triples
    )
    changed = replace(options, freeu=freeu, motion_loras=loras, motion_amounts=amounts)
    object.__setattr__(changed, "plan", options.plan)
    return changed


class _Same:
    """Compares values by identity, and by equality where they are plain settings."""

    def __init__(self, values: tuple) -> None:
        self.values = values

    def __hash__(self) -> int:
        return hash(len(self.values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and _same(self.values, other.values)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, (str, FreeU)) and type(a) is type(b):
        return a == b
    if isinstance(a, tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and isinstance(a, int) and a == b


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)


def _filled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nesting with other tensors."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {name: _filled(entry, tensors) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(entry, tensors) for entry in value)
    return value


def _structure(value: Any) -> tuple:
    """What must be equal for a graph to serve again: the nesting, tensors by their form, all else by value."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device)
    if isinstance(value, dict):
        return tuple((name, _structure(entry)) for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(_structure, value))
    return (value,)
