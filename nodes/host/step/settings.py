"""The pack's settings in a MODEL's `transformer_options`, and what they mean for one call of the UNet.

Settings are plain numbers and strings, or objects that never change, because ComfyUI copies `model_options` on every
clone.
"""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ....unet_motion import ForwardOptions, FreeU, Views
from .amounts import amounts_for_batch, motion_amounts
from .compiled_settings import encode_settings
from .hooks import KEY, ComfyHooks
from .more_motion import VaryingMotion, more_motion
from .strengths import for_batch, motion_loras
from .varying import LAST_TIMESTEP, Varying, at_step, frames_of_window
from .window_hints import RUN, Window, WindowHints

ON = 0.5
"""From this value of a curve on FreeU acts."""


def settings(transformer_options: dict) -> dict[str, Any]:
    """The pack's settings of a call."""
    return transformer_options.get(KEY, {})


def with_settings(model: Any, **changes: Any) -> Any:
    """A clone of a MODEL with some settings changed; the given MODEL stays as it is."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options[KEY] = {**options.get(KEY, {}), **changes}
    return clone


def clip_frames(x: Tensor, transformer_options: dict) -> int:
    """Frames per clip of a batch (conds * clips * frames, C, H, W).

    Raises:
        ValueError: the batch is not made of whole clips.
    """
    conds = len(transformer_options.get("cond_or_uncond") or (0,))
    rows = x.shape[0] // conds
    frames = settings(transformer_options).get("frames_per_clip") or rows
    if frames > rows:
        frames = rows
    if rows % frames:
        raise ValueError(f"frames_per_clip is {frames}, but the latent batch of {rows} frames is not a multiple of it.")
    return frames


def for_this_call(x: Tensor, transformer_options: dict) -> dict[str, Any]:
    """The settings of a call with what they mean for its batch: frames per clip, strengths of those frames."""
    chosen, frames = settings(transformer_options), clip_frames(x, transformer_options)
    if isinstance((chosen.get("freeu") or {}).get("curve"), Varying):
        curve = chosen["freeu"]["curve"]
        steps = {"number": float(curve.number), "steps": curve.step_pieces(x.device)}
        chosen = {**chosen, "freeu": {**chosen["freeu"], "curve": steps}}
    if "motion_loras" in chosen:
        chosen = {**chosen, "motion_loras": for_batch(chosen["motion_loras"], x, frames, transformer_options)}
    if "motion_amounts" in chosen:
        amounts = amounts_for_batch(chosen["motion_amounts"], x, frames, transformer_options)
        chosen = {**chosen, "motion_amounts": amounts}
    if "more_motion" in chosen:
        more = [
            one.for_batch(x, frames, transformer_options) if isinstance(one, VaryingMotion) else one
            for one in chosen["more_motion"]
        ]
        chosen = {**chosen, "more_motion": more}
    return {**chosen, "frames_per_clip": frames}


def publish_animation(x: Tensor, frames: int, transformer_options: dict) -> None:
    """Tell other packs which frames of the animation are in this call (the `ad_params` they already read)."""
    window = transformer_options.get("context_window")
    indices = frames_of_window(window)
    params = {"full_length": frames, "context_length": frames, "sub_idxs": None}
    if indices is not None:
        params["sub_idxs"] = indices
        params["full_length"] = getattr(window, "total_frames", None) or max(frames, max(indices) + 1)
    transformer_options["ad_params"] = {**params, **transformer_options.get("ad_params", {})}


def publish_before_control(model: Any) -> None:
    """Make a MODEL publish its animation before ControlNets run, which is before the UNet is called.

    In a window the ControlNets that know nothing of windows get the hints of its frames.
    """

    def wrapper(executor, base, conds, x, timestep, model_options):
        options = dict(model_options.get("transformer_options", {}))
        # A batch that makes no whole clips is named by the UNet.
        frames = settings(options).get("frames_per_clip") or x.shape[0]
        publish_animation(x, min(frames, x.shape[0]), options)
        given = {**model_options, "transformer_options": options}
        animation, window = options["ad_params"], options.get("context_window")
        if window is None or animation["sub_idxs"] is None:
            return executor(base, conds, x, timestep, given)
        hints = options.get(RUN) or WindowHints(room=0)
        place = Window(animation["sub_idxs"], animation["full_length"], getattr(window, "rows", None))
        with hints.of_window(conds, place) as of_window:
            return executor(base, of_window, x, timestep, given)

    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, wrapper)


def pass_settings(model: Any) -> None:
    """Make a MODEL hand its settings to the UNet as an argument too.

    ComfyUI's compiled models do not look at `transformer_options` again, where another branch of the graph, or a batch
    of one cond after one of two, would get a graph that was made for something else.
    """

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        given = {} if transformer_options is None else transformer_options
        return executor(
            x, t, c_concat, c_crossattn, control, given, **{**kwargs, KEY: encode_settings(for_this_call(x, given))}
        )

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, wrapper)


def in_range(timesteps: Tensor, start_percent: float, end_percent: float) -> Tensor | None:
    """Whether a step lies in a range of the sampling, where 0 is its first step and 1 its last, or None: always.

    A bool tensor of one value where the timesteps are: reading it would wait for the device, and would write one
    step's answer into a compiled graph.
    """
    if start_percent <= 0 and end_percent >= 1:
        return None
    timestep = timesteps.flatten()[:1]
    return ((1 - end_percent) * LAST_TIMESTEP <= timestep) & (timestep <= (1 - start_percent) * LAST_TIMESTEP)


def _freeu(chosen: dict, timesteps: Tensor) -> FreeU:
    factors = {name: chosen[name] for name in ("s1", "s2", "b1", "b2", "version")}
    active, curve = in_range(timesteps, chosen["start_percent"], chosen["end_percent"]), chosen.get("curve")
    if curve is not None:
        now = timesteps.flatten()[:1].float()
        on = at_step(torch.full_like(now, curve["number"]), curve["steps"], now) >= ON
        active = on if active is None else active & on
    return FreeU(**factors, active=active)


def _frames_at_once(size: int, hooks: ComfyHooks) -> int | None:
    """Frames in the layers between motion modules, None for all; a ValueError where patches need all of them."""
    if size and not hooks.takes_parts():
        raise ValueError(
            f"`frames_at_once` is {size}, but patches of the attention, such as IPAdapter's, see all frames at once: "
            "set `frames_at_once` of Context Windows (motion) to 0, or `views` off."
        )
    return size or None


def forward_options(x: Tensor, transformer_options: dict, timesteps: Tensor, hooks: ComfyHooks) -> ForwardOptions:
    """The core's options of one call."""
    chosen = for_this_call(x, transformer_options)
    overrides: dict[str, Any] = {"hooks": hooks}
    if "freeu" in chosen:
        overrides["freeu"] = None if chosen["freeu"] is None else _freeu(chosen["freeu"], timesteps)
    if "attention" in chosen:
        spatial, temporal = chosen["attention"]["spatial"], chosen["attention"]["temporal"]
        overrides["attn_processors"] = {"*": spatial, "*.motion_modules.*": temporal}
    if "chunking" in chosen:
        chunking = chosen["chunking"]
        overrides["forward_chunking"] = None if chunking is None else (chunking["size"], chunking["dim"])
    if "motion_loras" in chosen:
        overrides["motion_loras"] = motion_loras(chosen["motion_loras"], timesteps)
    if "motion_amounts" in chosen:
        overrides["motion_amounts"] = motion_amounts(chosen["motion_amounts"], timesteps)
    if "views" in chosen:
        overrides["views"] = Views.of(chosen["views"])
        overrides["frames_at_once"] = _frames_at_once(chosen["frames_at_once"], hooks)
    if "more_motion" in chosen:
        overrides["more_motion"] = more_motion(chosen["more_motion"], timesteps)
    return ForwardOptions(**overrides)
