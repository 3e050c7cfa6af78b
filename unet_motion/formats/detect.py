"""Telling what a file is from the names and shapes in it; file names are never looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..files.errors import shorten
from .names.keys import prefix_before

KINDS: dict[str, str] = {
    "ldm_unet": "a UNet with Stable Diffusion's original (LDM) names",
    "ldm_unet_motion": "a motion UNet with Stable Diffusion's original (LDM) names, as ComfyUI saves it",
    "unet2d": "a diffusers UNet2DConditionModel",
    "unet_motion": "a diffusers UNetMotionModel",
    "animatediff_unet": "an AnimateDiff training checkpoint (UNet and motion module)",
    "motion_module": "an AnimateDiff motion module",
    "fancyvideo": "a FancyVideo motion module",
    "i2v_encoder": "the image encoder of AnimateLCM-I2V without its motion modules",
    "motion_adapter": "a diffusers MotionAdapter",
    "motion_lora": "a motion LoRA",
    "lora": "a LoRA",
    "sparsectrl": "a SparseCtrl encoder",
    "controlnet": "a ControlNet",
    "camera": "a CameraCtrl or MotionCtrl camera encoder",
    "ip_adapter": "an IP-Adapter",
    "t2i_adapter": "a T2I-Adapter",
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    "image_encoder": "a CLIP image encoder",
    "embedding": "a textual-inversion embedding",
    "video_unet": "a video UNet of another family",
    "transformer": "a diffusion transformer",
    "upscaler": "an upscaling model",
    "unknown": "a file of unknown content",
}
"""Every kind that is told apart, with the words that errors use for it."""

MOTION_UNET_KINDS = ("unet_motion", "animatediff_unet", "ldm_unet_motion")
UNET_KINDS = ("ldm_unet", "unet2d", *MOTION_UNET_KINDS)
MOTION_KINDS = ("motion_module", "motion_adapter", *MOTION_UNET_KINDS)
SELF_DESCRIBED = MOTION_UNET_KINDS
"""Kinds whose configuration is that of a ``UNetMotionModel``."""

_LORA = re.compile(
    r"\.lora_(up|down|A|B|mid)\.|_lora\.(up|down)\.|\.lora\.(up|down)\.|\.lora_linear_layer\.|\.hada_w\d|\.lokr_w\d"
    r"|\.oft_(blocks|diag)|\.dora_scale$"
)
_MOTION = re.compile(r"motion_modules|temporal_transformer")
_ORIGINAL_MOTION = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"
_DIFFUSERS_MOTION = "down_blocks.0.motion_modules.0.proj_in.weight"
_HOTSHOT = re.compile(r"(.*?)(down_blocks|up_blocks)\.\d+\.temporal_attentions\.\d+\.")
_BLOCKS = r"(down_blocks\.\d+|up_blocks\.\d+|mid_block)\."
_RESNET = "down_blocks.0.resnets.0.conv1.weight"
_LDM = "input_blocks.0.0.weight"


@dataclass(frozen=True)
class Detection:
    """What a file is.

    Attributes:
        kind: a key of :data:`KINDS`.
        prefix: what stands before the names of the part that was recognised, e.g. ``model.diffusion_model.``.
        evidence: the name that decided.
    """

    kind: str
    prefix: str = ""
    evidence: str = ""

    @property
    def words(self) -> str:
        """``a VAE (decoder.conv_in.weight)``."""
        return f"{KINDS[self.kind]} ({shorten(self.evidence)}, ...)" if self.evidence else KINDS[self.kind]


def detect(keys: Iterable[str]) -> Detection:
    """Recognise a set of tensor names; ``unknown`` rather than an error when nothing fits."""
    keys = list(keys)
    return (
        _adapters(keys)
        or _unets(keys)
        or _motion_modules(keys)
        or _others(keys)
        or Detection("unknown", evidence=keys[0] if keys else "")
    )


def _adapters(keys: list[str]) -> Detection | None:
    """LoRAs and control models, whose names contain those of the UNets that they attach to."""
    lora = [key for key in keys if _LORA.search(key)]
    if len(lora) * 2 > len(keys):
        motion = next((key for key in lora if _MOTION.search(key)), None)
        return Detection("motion_lora", evidence=motion) if motion else Detection("lora", evidence=lora[0])
    control = _find(keys, r"(^|\.)(controlnet_cond_embedding|controlnet_down_blocks|input_hint_block|zero_convs)\.")
    if control and prefix_before(keys, "output_blocks.0.0.in_layers.0.weight") is None:
        motion = next((key for key in keys if _MOTION.search(key)), None)
        return Detection("sparsectrl", evidence=motion) if motion else Detection("controlnet", evidence=control)
    camera = _find(keys, r"(^|\.)(qkv_merge|cc_projection)\.")
    return Detection("camera", evidence=camera) if camera else None


def _unets(keys: list[str]) -> Detection | None:
    prefix = prefix_before(keys, _LDM)
    if prefix is not None and prefix_before(keys, "time_embed.0.weight") is not None:
        foreign = _find(keys, r"(.*\.)?(time_stack|time_mixer|temopral_conv|temporal_conv)\.")
        if foreign:
            return Detection("video_unet", prefix, foreign)
        motion = _find(keys, re.escape(prefix) + r"motion\.(down_blocks|mid_block|up_blocks)\.")
        return Detection("ldm_unet_motion" if motion else "ldm_unet", prefix, motion or prefix + _LDM)
    prefix = prefix_before(keys, _RESNET)
    if prefix is None or f"{prefix}time_embedding.linear_1.weight" not in keys:
        return None
    original = _find(keys, re.escape(prefix) + _BLOCKS + r"motion_modules\.\d+\.temporal_transformer\.")
    if original:
        return Detection("animatediff_unet", prefix, original)
    hotshot = next((key for key in keys if _HOTSHOT.match(key)), None)
    if hotshot:
        return Detection("animatediff_unet", prefix, hotshot)
    if prefix + _DIFFUSERS_MOTION in keys:
        return Detection("unet_motion", prefix, prefix + _DIFFUSERS_MOTION)
    foreign = _find(keys, r".*\.(temp_convs|temp_attentions|temporal_transformer_blocks)\.")
    if foreign:
        return Detection("video_unet", prefix, foreign)
    return Detection("unet2d", prefix, prefix + _RESNET)


def _motion_modules(keys: list[str]) -> Detection | None:
    hotshot = next((match for key in keys if (match := _HOTSHOT.match(key))), None)
    if hotshot:
        return Detection("motion_module", hotshot[1], hotshot.string)
    fancy = _find(keys, r"(.*\.)?fps_embedding\.linear\.") or ("FancyVideo" if "FancyVideo" in keys else None)
    if fancy and any(_MOTION.search(key) for key in keys):
        return Detection("fancyvideo", evidence=fancy)
    encoder = _find(keys, r"(.*\.)?img_encoder\.body\.\d+\.block1\.")
    if encoder and not any(_MOTION.search(key) for key in keys):
        return Detection("i2v_encoder", evidence=encoder)
    for kind, anchor in (("motion_module", _ORIGINAL_MOTION), ("motion_adapter", _DIFFUSERS_MOTION)):
        prefix = prefix_before(keys, anchor)
        if prefix is not None:
            return Detection(kind, prefix, prefix + anchor)
    # A file whose first block is missing is still a motion module.
    original = _find(keys, r"(.*\.)?" + _BLOCKS + r"motion_modules\.\d+\.temporal_transformer\.")
    if original:
        return Detection("motion_module", original[: _blocks_at(original)], original)
    adapter = _find(keys, r"(.*\.)?" + _BLOCKS + r"motion_modules\.\d+\.transformer_blocks\.")
    return Detection("motion_adapter", adapter[: _blocks_at(adapter)], adapter) if adapter else None


def _blocks_at(key: str) -> int:
    """Where the blocks' part of a name begins."""
    found = re.search(_BLOCKS, key)
    return 0 if found is None else found.start()


_OTHERS = (
    ("ip_adapter", r"(image_proj|ip_adapter)\."),
    ("t2i_adapter", r"(adapter\.)?body\.\d+\.(in_conv|block1|resnets)"),
    ("transformer", r"(.*\.)?(double_blocks|single_blocks|joint_blocks|double_layers|patch_embedding|x_embedder)\."),
    ("vae", r"(first_stage_model\.|vae\.)?(en|de)coder\.(conv_in|down_blocks|up_blocks|down|up|mid|mid_block)\."),
    ("vae", r"(taesd_)?(en|de)coder\.(layers\.)?\d+\.(conv|weight|bias)"),
    ("image_encoder", r"(.*\.)?(vision_model|visual)\."),
    ("text_encoder", r"(.*\.)?(text_model|token_embedding|transformer\.resblocks)(\.|$)"),
    ("text_encoder", r"(encoder\.block\.\d+\.layer|shared\.weight)"),
    ("embedding", r"(emb_params|string_to_param|clip_[lg]$)"),
    ("upscaler", r"(model\.0\.weight|conv_first\.weight|RRDB_trunk|body\.\d+\.rdb1)"),
)


def _others(keys: list[str]) -> Detection | None:
    for kind, pattern in _OTHERS:
        evidence = _find(keys, pattern)
        if evidence:
            return Detection(kind, evidence=evidence)
    return None


def _find(keys: list[str], pattern: str) -> str | None:
    compiled = re.compile(pattern)
    match = compiled.search if pattern.startswith("(^") else compiled.match
    return next((key for key in keys if match(key)), None)
