"""AnimateDiff-Evolved's sample settings, guidance, latents, files and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....values import quoted
from .rows import BatchOf, Fold, Give, Only, Row, is_linked, of, row
from .values import BETA_SCHEDULES, FORMATS, NOISES, RESIZES, SCHEDULERS

DEPRECATED = "deprecation_warning ADEWARN"
SEED = "seed_override INT 0!"
_SAMPLING = (
    'batch_offset INT 0; noise_type COMBO "default"; seed_gen COMBO "comfy"; seed_offset INT 0;'
    "noise_layers NOISE_LAYERS; iteration_opts ITERATION_OPTS;"
    f"{SEED}; adapt_denoise_steps BOOLEAN false; custom_cfg CUSTOM_CFG; sigma_schedule SIGMA_SCHEDULE;"
    "image_inject IMAGE_INJECT; ancestral_opts ANCESTRAL_OPTS"
)


def starting_noise(values: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Fold]:
    """The noise that a sampler starts from: its kind, and its own seed where that counts.

    The settings' seed counts only where they draw the noise themselves: not for plain noise as the sampler draws it.
    """
    kind, generator = values["noise_type"], values["seed_gen"]
    for name, value, instead in (("noise_type", kind, "default"), ("seed_gen", generator, "comfy")):
        if is_linked(value):
            yield "", {}, f"{name} is linked, so that it cannot be read; {quoted(instead)} counts"
    kind, generator = "default" if is_linked(kind) else kind, "comfy" if is_linked(generator) else generator
    seed, offset = values.get("seed_override"), values["seed_offset"]
    per_frame = generator.startswith("auto1111")
    ours = NOISES.get(kind) or ("seed_per_frame" if per_frame and kind == "default" else None)
    if kind not in (*NOISES, "default", "FreeNoise"):
        yield "", {}, f"noise_type {quoted(kind)} has no counterpart; the sampler's own noise counts"
    if generator not in ("comfy", "auto1111"):
        yield "", {}, f"seed_gen {quoted(generator)} has no counterpart: noise is drawn on the CPU"
    if per_frame and kind in ("FreeNoise", "repeated_context"):
        yield "", {}, f"seed_gen {quoted(generator)} has no counterpart for {kind}: one generator draws all frames"
    if seed is not None and ours is not None and kind != "empty":
        fits = isinstance(seed, int) and isinstance(offset, int)
        yield "noise", {"noise_seed": seed + offset if fits else seed}, None
        yield "use_noise", {"follow_seed": False}, None
        seed, offset = None, 0 if fits else offset
    elif kind == "default" and ours is None and not offset:
        seed = None
    if ours is not None:
        yield "noise", {"kind": ours}, None
    if seed is not None or (offset and kind != "empty"):
        yield "", {}, "seed_override and seed_offset have no counterpart here: the noise is that of the sampler's seed"


SAMPLING = (
    row(
        "ADE_AnimateDiffSamplingSettings",
        _SAMPLING,
        "SAMPLE_SETTINGS",
        Give("windows", {"free_noise": True}, weak=True, when=("noise_type", ("FreeNoise",))),
        fold=starting_noise,
        folds=("noise", "use_noise"),
        only={"batch_offset": Only((0,), "the noise is that of the first frames")},
        ignored=("adapt_denoise_steps",),
    ),
    row(
        "ADE_IterationOptsFreeInit",
        'iterations INT 2; filter COMBO "gaussian"; d_s FLOAT 0.25; d_t FLOAT 0.25; n_butterworth INT 4;'
        'sigma_step INT 999; apply_to_1st_iter BOOLEAN false; init_type COMBO "FreeInit [sampler sigma]";'
        "iter_batch_offset INT 0; iter_seed_offset INT 1",
        "ITERATION_OPTS",
        Give(
            "free_init",
            {
                "iterations": of("iterations"),
                "filter": of("filter", {name: name for name in ("gaussian", "butterworth", "ideal", "box")}),
                "spatial_stop": of("d_s"),
                "temporal_stop": of("d_t"),
                "order": of("n_butterworth"),
            },
        ),
        only={
            "sigma_step": Only((999,), "noise is mixed at the last noise level"),
            "apply_to_1st_iter": Only((False,), "the first pass starts from plain noise"),
            "init_type": Only(("FreeInit [sampler sigma]", "FreeInit [model sigma]"), "FreeInit's own mix is made"),
            "iter_batch_offset": Only((0,), "fresh noise is that of the first frames"),
            "iter_seed_offset": Only((1,), "each pass has its own fresh noise"),
        },
        note="later passes mix in fresh noise of other seeds here: a clip of the same kind, not the same clip",
    ),
    row(
        "ADE_IterationOptsDefault",
        "iterations INT 1; iter_batch_offset INT 0; iter_seed_offset INT 0",
        "ITERATION_OPTS",
        only={"iterations": Only((1,), "the clip is sampled once")},
        ignored=("iter_batch_offset", "iter_seed_offset"),
    ),
    row(
        "ADE_CustomCFGSimple",
        "cfg FLOAT 8.0; cfg_extras CFG_EXTRAS",
        "CUSTOM_CFG",
        Give("sampler", {"cfg": of("cfg")}),
    ),
    row(
        "ADE_CustomCFG",
        "cfg_multival MULTIVAL; cfg_extras CFG_EXTRAS",
        "CUSTOM_CFG",
        reads={"cfg_multival": {"value": "sampler:cfg"}},
    ),
    row(
        "ADE_CFGExtrasPAGSimple",
        "scale FLOAT 3.0; prev_extras CFG_EXTRAS",
        "CFG_EXTRAS",
        Give("pag", {"scale": of("scale")}),
        chain="prev_extras",
    ),
    row(
        "ADE_CFGExtrasPAG",
        "scale_multival MULTIVAL; prev_extras CFG_EXTRAS",
        "CFG_EXTRAS",
        reads={"scale_multival": {"value": "pag:scale"}},
        chain="prev_extras",
    ),
    row(
        "ADE_CFGExtrasRescaleCFGSimple",
        "multiplier FLOAT 0.7; prev_extras CFG_EXTRAS",
        "CFG_EXTRAS",
        Give("rescale", {"multiplier": of("multiplier")}),
        chain="prev_extras",
    ),
    row(
        "ADE_CFGExtrasRescaleCFG",
        "mult_multival MULTIVAL; prev_extras CFG_EXTRAS",
        "CFG_EXTRAS",
        reads={"mult_multival": {"value": "rescale:multiplier"}},
        chain="prev_extras",
    ),
    row(
        "ADE_SigmaSchedule",
        'beta_schedule COMBO "sqrt_linear (AnimateDiff)"',
        "SIGMA_SCHEDULE",
        Give("apply", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, weak=True, over=2),
        Give("schedule", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, over=2),
    ),
    row(
        "ADE_PerturbedAttentionGuidanceMultival",
        "model MODEL; scale_multival MULTIVAL",
        "MODEL",
        Give("pag", {}),
        reads={"scale_multival": {"value": "pag:scale"}},
        emits={0: "model"},
        home="pag",
    ),
    row(
        "ADE_RescaleCFGMultival",
        "model MODEL; mult_multival MULTIVAL",
        "MODEL",
        Give("rescale", {}),
        reads={"mult_multival": {"value": "rescale:multiplier"}},
        emits={0: "model"},
        home="rescale",
    ),
)

OTHERS = (
    row(
        "ADE_EmptyLatentImageLarge",
        "width INT 512; height INT 512; batch_size INT 1",
        "LATENT",
        Give("latents", {"width": of("width"), "height": of("height"), "batch_size": of("batch_size")}),
        emits={0: ("latents", 0)},
        home="latents",
    ),
    row(
        "CheckpointLoaderSimpleWithNoiseSelect",
        'ckpt_name COMBO; beta_schedule COMBO "use existing"; use_custom_scale_factor BOOLEAN false;'
        "scale_factor FLOAT 0.18215",
        "MODEL CLIP VAE",
        Give("checkpoint", {"ckpt_name": of("ckpt_name")}),
        Give("schedule", {"beta_schedule": of("beta_schedule", {**BETA_SCHEDULES, "autoselect": "keep"})}),
        only={"use_custom_scale_factor": Only((False,), "the checkpoint's own latent scale is used")},
        ignored=("scale_factor",),
        emits={0: "model", 1: ("checkpoint", 1), 2: ("checkpoint", 2)},
        home="checkpoint",
    ),
    row(
        "ADE_UpscaleAndVAEEncode",
        'image IMAGE; vae VAE; latent_size LATENT; scale_method COMBO "nearest-exact"; crop COMBO "center"',
        "LATENT",
        Give(
            "resize",
            {
                "image": of("image"),
                "upscale_method": of("scale_method", {name: name for name in RESIZES}),
                "width": BatchOf("latent_size", 512, "width"),
                "height": BatchOf("latent_size", 512, "height"),
                "crop": of("crop", {"disabled": "disabled", "center": "center"}),
            },
        ),
        Give("encode_resized", {"vae": of("vae")}),
        emits={0: ("encode_resized", 0)},
        home="encode_resized",
    ),
    row(
        "ADE_AnimateDiffCombine",
        'images IMAGE; frame_rate INT 8; loop_count INT 0; filename_prefix STRING "AnimateDiff";'
        f'format COMBO "image/gif"; pingpong BOOLEAN false; save_image BOOLEAN true; {DEPRECATED}',
        "GIF",
        Give(
            "clip",
            {
                "images": of("images"),
                "filename_prefix": of("filename_prefix"),
                "format": of("format", FORMATS),
                "fps": of("frame_rate"),
            },
        ),
        only={
            "loop_count": Only((0,), "the file loops for ever"),
            "pingpong": Only((False,), "the frames run forwards only"),
        },
        ignored=("save_image",),
        emits={},
        home="clip",
    ),
)


def _show(kind: str, inputs: str, *more: str) -> Row:
    """A picture of the windows: the node here shows those that are set on its MODEL."""
    return row(
        kind,
        f"model MODEL; {inputs}",
        "IMAGE",
        Give("picture_latents", {"batch_size": of("latents_length")}),
        Give("picture", {"model": of("model"), "steps": of("steps"), "scheduler": of("scheduler", SCHEDULERS)}),
        ignored=("sampler_name", "visual_width", *more),
        emits={0: ("picture", 0)},
        home="picture",
    )


_VISUAL = 'sampler_name COMBO "euler"; scheduler COMBO "simple"; context_opts CONTEXT_OPTIONS;'
_VISUAL += "visual_width INT 1440; latents_length INT 32; steps INT 20"
PICTURES = (
    _show("ADE_VisualizeContextOptionsK", f"{_VISUAL}; denoise FLOAT 1.0", "denoise"),
    _show("ADE_VisualizeContextOptionsKAdv", f"{_VISUAL}; start_step INT 0; end_step INT 20", "start_step", "end_step"),
)

ROWS: tuple[Row, ...] = (*SAMPLING, *OTHERS, *PICTURES)
