"""The nodes that conversions write, in the order in which the MODEL runs through them."""

from __future__ import annotations

from .rows import Stage
from .values import loops_of_pia, norms_of_module, norms_of_v1, positions_of_lcm

NO_NODE = ""
CURVE = "UNetMotion_Curve"
FITTED = {"upscale_method": "bilinear", "crop": "disabled"}
SCALED = {"upscale_method": "lanczos", "crop": "center"}
STAGES = {
    "checkpoint": Stage("CheckpointLoaderSimple"),
    "latents": Stage("EmptyLatentImage"),
    "clip": Stage("UNetMotion_SaveClip"),
    "prompts": Stage("UNetMotion_PromptSchedule"),
    "curve": Stage(CURVE),
    "video": Stage("LoadVideo", feeds=(("frames", "video"),)),
    "frames": Stage("GetVideoComponents", feeds=(("part", "image"), ("sized", "image"), ("count", "image"))),
    "part": Stage(
        "ImageFromBatch",
        feeds=(("sized", "image"), ("count", "image")),
        skip=True,
        neutral={"batch_index": 0, "length": 4096},
    ),
    "sized": Stage(
        "ImageScale", feeds=(("count", "image"),), skip=True, neutral={"width": 0, "height": 0, **SCALED}, fixed=SCALED
    ),
    "repeated": Stage("RepeatImageBatch", feeds=(("count", "image"),)),
    "count": Stage("GetImageSize", demand=True),
    "counted": Stage("GetImageSize"),
    "decoded": Stage("VAEDecode"),
    "control_loader": Stage("ControlNetLoader"),
    "control": Stage("ControlNetApplyAdvanced"),
    "control_loader_diff": Stage("DiffControlNetLoader"),
    "control_single": Stage("ControlNetApply"),
    "control_curve": Stage(CURVE, feeds=(("control_strength", "strength_curve"),)),
    "control_strength": Stage("UNetMotion_ControlStrength"),
    "interpolator": Stage("FrameInterpolationModelLoader", feeds=(("interpolate", "interp_model"),)),
    "interpolate": Stage("FrameInterpolate"),
    "schedule": Stage(NO_NODE, model="model"),
    "module": Stage(
        "UNetMotion_LoadMotionModule",
        feeds=(("apply", "motion_module"), ("add", "motion_module")),
        without=positions_of_lcm,
        says=norms_of_module,
    ),
    "apply": Stage("UNetMotion_ApplyMotionModule", model="model", says=norms_of_v1),
    "add": Stage("UNetMotion_AddMotionModule", model="model"),
    "add_scale_curve": Stage(CURVE, feeds=(("add", "scale_curve"),)),
    "add_effect_curve": Stage(CURVE, feeds=(("add", "effect_curve"),)),
    "file": Stage(NO_NODE),
    "lora": Stage("UNetMotion_LoadMotionLoRA", model="model"),
    "scale_curve": Stage(CURVE, feeds=(("amount", "scale_curve"),), makes=True),
    "effect_curve": Stage(CURVE, feeds=(("amount", "effect_curve"),), makes=True),
    "amount": Stage("UNetMotion_MotionAmount", model="model", skip=True),
    "block": Stage("UNetMotion_MotionAmount", model="model", skip=True, each=True),
    "black_scale": Stage("InvertMask", feeds=(("dark_scale", "mask"),), makes=True),
    "dark_scale": Stage("UNetMotion_MotionAmount", model="model", fixed={"scale": 0.0}),
    "black_effect": Stage("InvertMask", feeds=(("dark_effect", "mask"),), makes=True),
    "dark_effect": Stage("UNetMotion_MotionAmount", model="model", fixed={"effect": 0.0}),
    "white": Stage("UNetMotion_MotionAmount", model="model"),
    "encode": Stage("VAEEncode", feeds=(("pia", "first_frame"),), makes=True),
    "pia": Stage("UNetMotion_PIA", model="model", says=loops_of_pia),
    "i2v": Stage("UNetMotion_AnimateLCMI2V", model="model"),
    "windows": Stage("UNetMotion_ContextWindows", model="model", each=True),
    "fitted": Stage("ImageScale", feeds=(("injection", "image"),), fixed=FITTED),
    "inverted": Stage("InvertMask", feeds=(("injection", "mask"),)),
    "injection": Stage("UNetMotion_ImageInjection", model="model"),
    "resize": Stage("ImageScale", feeds=(("encode_resized", "pixels"),)),
    "encode_resized": Stage("VAEEncode"),
    "picture_latents": Stage("EmptyLatentImage", feeds=(("picture", "latent_image"),)),
    "picture": Stage("UNetMotion_ShowContextWindows"),
    "noise": Stage("UNetMotion_Noise", feeds=(("use_noise", "noise"),), makes=True),
    "use_noise": Stage("UNetMotion_UseNoise", model="model"),
    "free_init": Stage("UNetMotion_FreeInit", model="model"),
    "guidance_curve": Stage(CURVE, feeds=(("guidance", "cfg_curve"),), makes=True, sets={"cfg": 1.0}),
    "guidance": Stage("UNetMotion_Guidance", model="model"),
    "pag": Stage("PerturbedAttentionGuidance", model="model"),
    "rescale": Stage("RescaleCFG", model="model"),
}
"""Each stage's node. Those without `model` stand beside the chain."""

PER_MODULE = frozenset(
    "module apply add add_scale_curve add_effect_curve file lora scale_curve effect_curve amount block black_scale "
    "dark_scale black_effect dark_effect white encode pia i2v".split()
)
"""Stages of which each motion module has its own."""

PER_PICTURE = frozenset("fitted inverted injection".split())
"""Stages of which each picture that is laid into a clip has its own."""

FURTHER = {
    "module": "module",
    "apply": "add",
    "add": "add",
    "amount": "add",
    "scale_curve": "add_scale_curve",
    "effect_curve": "add_effect_curve",
}
"""What stages of a motion module are for one beside another."""

KEYS = {
    "scale_curve": "1",
    "effect_curve": "1",
    "add_scale_curve": "1",
    "add_effect_curve": "1",
    "guidance_curve": None,
}
"""Stages whose texts are keys of one curve, and the value before the first key; None: that of the first."""

SAMPLERS = {
    "KSampler": "cfg",
    "KSamplerAdvanced": "cfg",
    "SamplerCustom": "cfg",
    "CFGGuider": "cfg",
    "UNetMotion_Sampler": "cfg",
}
"""Nodes that guidance is set on: the inputs that say how much."""

_SIZES = {name: name for name in ("width", "height", "batch_size")}
BATCHES = {
    "EmptyLatentImage": _SIZES,
    "ADE_EmptyLatentImageLarge": _SIZES,
    "RepeatLatentBatch": {"batch_size": "amount"},
}
"""Nodes that make batches of latents: the inputs that say how many, and how large."""

RENAMED = {"MOTION_MODEL_ADE": "MOTION_MODULE"}
"""Types of links that are called otherwise here."""


def stage_of(name: str) -> Stage | None:
    """The stage of a name; `@` before a type is a node of that type that stands by itself."""
    return Stage(name[1:]) if name.startswith("@") else STAGES.get(name)
