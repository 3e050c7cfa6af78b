"""The nodes that conversions write: their inputs in the order of their widgets, with types and defaults.

A test compares them with what running servers say. A node that is not in this list is never written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .core_nodes import NODES
from .values import BETA_SCHEDULES

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CONTROL = "control_after_generate"
UPLOAD = "upload"
CORE, OURS = "comfy-core", "unet-motion"


@dataclass(frozen=True)
class Input:
    """An input of a node.

    Attributes:
        extra: a widget that the page adds behind it, and its value.
        forced: a widget in old files only, whose value does not count: what counts is a link.
    """

    name: str
    type: str
    default: Any = None
    extra: tuple[str, Any] | None = None
    forced: bool = False

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGETS


@dataclass(frozen=True)
class Target:
    """A node that can be written."""

    kind: str
    pack: str
    inputs: dict[str, Input]
    outputs: tuple[tuple[str, str], ...]

    def page_widgets(self) -> list[str]:
        """Names of its widget values in the page's order; two are the page's own."""
        names = []
        for spec in self.inputs.values():
            if spec.is_widget:
                names += [spec.name] if spec.extra is None else [spec.name, spec.extra[0]]
        return names

    def default(self, name: str) -> Any:
        """The value of a widget that nothing sets."""
        spec = self.inputs.get(name)
        if spec is not None:
            return spec.default
        return next(s.extra[1] for s in self.inputs.values() if s.extra is not None and s.extra[0] == name)

    def size(self) -> tuple[int, int]:
        """Width and height that it takes on the page, in pixels."""
        sockets = max(sum(not spec.is_widget for spec in self.inputs.values()), len(self.outputs))
        tall = sum(70 for spec in self.inputs.values() if spec.name in ("text", "prompts", "blocks", "images"))
        tall += 80 * any(type_ == "UNET_MOTION_CURVE" for _, type_ in self.outputs)  # which it draws
        return (300, 16 + 20 * sockets + 25 * len(self.page_widgets()) + tall)

    @cached_property
    def sockets(self) -> list[str]:
        """Names of the inputs that only a link can fill."""
        return [spec.name for spec in self.inputs.values() if not spec.is_widget]


def parse_inputs(text: str) -> dict[str, Input]:
    """`name TYPE`, or `name TYPE default` with the default as JSON, parted by semicolons.

    Behind a default, `+` marks a seed, `^` a file that can be uploaded, `!` a forced input.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, type_, *rest = part.split(" ", 2)
        value = rest[0] if rest else ""
        extra = (CONTROL, "fixed") if value.endswith("+") else (UPLOAD, "image") if value.endswith("^") else None
        forced = value.endswith("!")
        value = value.rstrip("+^!").strip()
        found[name] = Input(name, type_, json.loads(value) if value else None, extra, forced)
    return found


def _target(kind: str, inputs: str, outputs: str) -> Target:
    pack = OURS if kind.startswith("UNetMotion_") else CORE
    pairs = tuple(tuple(part.split(":")) for part in outputs.split())
    return Target(kind, pack, parse_inputs(inputs), pairs)  # type: ignore[arg-type]


_CURVES = "UNET_MOTION_CURVE,CURVE,FLOATS,FLOAT"
_PROMPTS = '"0": "a red star moving left", "15": "a blue star moving left"'
_SAMPLER_NAMES = 'sampler_name COMBO "euler"; scheduler COMBO "normal"'
_ALL = (
    _target(
        "UNetMotion_LoadMotionModule",
        "motion_module COMBO; position_stretch INT 0; position_skip INT 0; position_cap INT 0;"
        "position_interpolate INT 0; position_skip_after INT 0; weights_times FLOAT 1.0; weights_plus FLOAT 0.0;"
        'weights_of STRING ""',
        "motion_module:MOTION_MODULE",
    ),
    _target(
        "UNetMotion_ApplyMotionModule",
        'model MODEL; motion_module MOTION_MODULE; norm_scope COMBO "auto"; beta_schedule COMBO "auto"',
        "model:MODEL",
    ),
    _target(
        "UNetMotion_AddMotionModule",
        "model MODEL; motion_module MOTION_MODULE; effect FLOAT 1.0; scale FLOAT 1.0; start_percent FLOAT 0.0;"
        f'end_percent FLOAT 1.0; norm_scope COMBO "auto"; effect_curve {_CURVES}; scale_curve {_CURVES}',
        "model:MODEL",
    ),
    _target(
        "UNetMotion_LoadMotionLoRA",
        'model MODEL; lora_name COMBO; strength FLOAT 1.0; strength_over_steps STRING "";'
        f'strength_over_frames STRING ""; allow_partial BOOLEAN false; strength_curve {_CURVES}',
        "model:MODEL",
    ),
    _target(
        "UNetMotion_AnimateLCMI2V",
        "model MODEL; picture LATENT; motion_scale FLOAT 0.8; strength FLOAT 1.0",
        "model:MODEL",
    ),
    _target(
        "UNetMotion_ContextWindows",
        'model MODEL; length INT 16; overlap INT 4; stride INT 1; schedule COMBO "standard_uniform";'
        'closed_loop BOOLEAN false; loop_frames INT 0; fuse COMBO "pyramid"; free_noise BOOLEAN false;'
        "use_on_equal_length BOOLEAN false; windows_at_once INT 1; start_percent FLOAT 0.0; end_percent FLOAT 1.0;"
        "views BOOLEAN false; frames_at_once INT 0",
        "model:MODEL",
    ),
    _target(
        "UNetMotion_Noise",
        'noise_seed INT 0+; kind COMBO "free_noise"; window_length INT 16; overlap INT 4; weight FLOAT 0.5;'
        "mix_with NOISE",
        "noise:NOISE",
    ),
    _target("UNetMotion_UseNoise", "model MODEL; noise NOISE; follow_seed BOOLEAN true", "model:MODEL"),
    _target(
        "UNetMotion_FreeInit",
        'model MODEL; iterations INT 3; filter COMBO "butterworth"; spatial_stop FLOAT 0.25; temporal_stop FLOAT 0.25;'
        "order INT 4; fast BOOLEAN false",
        "model:MODEL",
    ),
    _target(
        "UNetMotion_MotionAmount",
        f'model MODEL; scale FLOAT 1.0; effect FLOAT 1.0; blocks STRING ""; scale_curve {_CURVES};'
        f"effect_curve {_CURVES}; mask MASK",
        "model:MODEL",
    ),
    _target(
        "UNetMotion_Curve",
        f'text STRING "0:1, -1:1"; over COMBO "frames"; frames INT 16; times {_CURVES}',
        "motion_curve:UNET_MOTION_CURVE curve:CURVE floats:FLOAT",
    ),
    _target(
        "UNetMotion_ControlStrength",
        f"positive CONDITIONING; negative CONDITIONING; strength FLOAT 1.0; strength_curve {_CURVES}",
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    _target(
        "UNetMotion_ImageInjection",
        "model MODEL; vae VAE; image IMAGE; at FLOAT 0.3; strength FLOAT 1.0; x INT 0; y INT 0; mask MASK;"
        f"strength_curve {_CURVES}",
        "model:MODEL",
    ),
    _target("UNetMotion_Guidance", f"model MODEL; cfg FLOAT 7.0; cfg_curve {_CURVES}", "model:MODEL"),
    _target(
        "UNetMotion_PromptSchedule",
        f"clip CLIP; text STRING {json.dumps(_PROMPTS)}; frames INT 16;"
        'before STRING ""; after STRING ""; interpolation COMBO "linear"',
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    _target(
        "UNetMotion_ShowContextWindows",
        'model MODEL; latent_image LATENT; steps INT 20; scheduler COMBO "normal"',
        "image:IMAGE",
    ),
    _target(
        "UNetMotion_PIA",
        'model MODEL; first_frame LATENT; preset COMBO "medium motion"; influence STRING "1.0, 0.8, 0.75"; frame INT 0;'
        "strength FLOAT 1.0",
        "model:MODEL",
    ),
    _target(
        "UNetMotion_ScaleMotionBlocks",
        'motion_module MOTION_MODULE; down FLOAT 1.0; mid FLOAT 1.0; up FLOAT 1.0; blocks STRING ""',
        "motion_module:MOTION_MODULE",
    ),
    _target(
        "UNetMotion_SaveClip",
        'images IMAGE; filename_prefix STRING "UNetMotion"; format COMBO "webp"; fps FLOAT 8.0; quality INT 100',
        "images:IMAGE",
    ),
    _target("EmptyLatentImage", "width INT 512; height INT 512; batch_size INT 1", "LATENT:LATENT"),
    _target("CheckpointLoaderSimple", "ckpt_name COMBO", "MODEL:MODEL CLIP:CLIP VAE:VAE"),
    _target(
        "KSampler",
        f"model MODEL; seed INT 0+; steps INT 20; cfg FLOAT 8.0; {_SAMPLER_NAMES}; positive CONDITIONING;"
        "negative CONDITIONING; latent_image LATENT; denoise FLOAT 1.0",
        "LATENT:LATENT",
    ),
    _target(
        "KSamplerAdvanced",
        f'model MODEL; add_noise COMBO "enable"; noise_seed INT 0+; steps INT 20; cfg FLOAT 8.0; {_SAMPLER_NAMES};'
        "positive CONDITIONING; negative CONDITIONING; latent_image LATENT; start_at_step INT 0;"
        'end_at_step INT 10000; return_with_leftover_noise COMBO "disable"',
        "LATENT:LATENT",
    ),
    _target(
        "SamplerCustom",
        "model MODEL; add_noise BOOLEAN true; noise_seed INT 0+; cfg FLOAT 8.0; positive CONDITIONING;"
        "negative CONDITIONING; sampler SAMPLER; sigmas SIGMAS; latent_image LATENT",
        "output:LATENT denoised_output:LATENT",
    ),
    _target("CFGGuider", "model MODEL; positive CONDITIONING; negative CONDITIONING; cfg FLOAT 8.0", "GUIDER:GUIDER"),
    _target("PerturbedAttentionGuidance", "model MODEL; scale FLOAT 3.0", "MODEL:MODEL"),
    _target("RescaleCFG", "model MODEL; multiplier FLOAT 0.7", "MODEL:MODEL"),
    _target("VAEEncode", "pixels IMAGE; vae VAE", "LATENT:LATENT"),
    _target(
        "ImageScale",
        'image IMAGE; upscale_method COMBO "nearest-exact"; width INT 512; height INT 512; crop COMBO "disabled"',
        "IMAGE:IMAGE",
    ),
    *(_target(*node) for node in NODES),
)
TARGETS = {target.kind: target for target in _ALL}
CHOICES = {
    ("UNetMotion_ApplyMotionModule", "beta_schedule"): tuple(dict.fromkeys(BETA_SCHEDULES.values())),
    ("UNetMotion_ApplyMotionModule", "norm_scope"): ("auto", "diffusers", "v1", "v2", "v3", "sdxl"),
    ("UNetMotion_ContextWindows", "fuse"): ("flat", "pyramid", "relative", "overlap-linear", "gaussian"),
    ("UNetMotion_ContextWindows", "schedule"): ("standard_static", "standard_uniform", "looped_uniform", "batched"),
    ("UNetMotion_Curve", "over"): ("frames", "steps"),
    ("UNetMotion_PromptSchedule", "interpolation"): ("linear", "slerp"),
    ("UNetMotion_Noise", "kind"): ("default", "free_noise", "repeated", "constant", "seed_per_frame", "empty"),
    ("UNetMotion_FreeInit", "filter"): ("gaussian", "butterworth", "ideal", "box"),
    ("UNetMotion_SaveClip", "format"): ("webp", "gif", "mp4", "sheet"),
}
"""Values of choosers that the table picks from."""
