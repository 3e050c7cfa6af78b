"""AnimateDiff-Evolved's nodes that have a counterpart, and those of its forerunners under the same names."""

from __future__ import annotations

from .over_time import MULTIVAL, range_of
from .rows import Give, Only, Row, made, of, row
from .values import BETA_SCHEDULES, FORMATS, FUSES, NOISES, OTHER_NOISES, PIA_PRESETS, SCHEDULES, norm_scope

PREVIEW = 'preview STRING ""'  # where old pages showed the file
DEPRECATED = "deprecation_warning ADEWARN"
SEED = "seed_override INT 0!"
SETTINGS = "ad_settings AD_SETTINGS"
MODULE = Give("module", {"motion_module": of("model_name")})
SCHEDULE = Give("apply", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)})
APPLIED = Give("apply", {"motion_module": of("motion_model")})
ONE_STEP = Only((0, 1), "the setting lasts as long as its range holds a step")


def _windows(kind: str, inputs: str, schedule: str, *more: Give, stride: bool = True, **rest) -> Row:
    """Options of context windows; `inputs` in their order."""
    given = {"length": of("context_length"), "schedule": schedule, "start_percent": of("start_percent")}
    if "context_overlap" in inputs:
        given["overlap"] = of("context_overlap")
    if stride:
        given["stride"] = of("context_stride")
    if "closed_loop" in inputs:
        given["closed_loop"] = of("closed_loop")
    if "fuse_method" in inputs:
        given["fuse"] = of("fuse_method", FUSES)
    if "use_on_equal_length" in inputs:
        given["use_on_equal_length"] = of("use_on_equal_length")
    noise = {"window_length": given["length"], "overlap": given.get("overlap", 0)}
    return row(
        kind,
        inputs,
        "CONTEXT_OPTIONS",
        Give("windows", given, again=True),
        Give("noise", noise, weak=True),
        *more,
        chain="prev_context",
        only={"guarantee_steps": ONE_STEP},
        **rest,
    )


_SPAN = "start_percent FLOAT 0.0; guarantee_steps INT 1; prev_context CONTEXT_OPTIONS"
_FUSED = f'fuse_method COMBO "pyramid"; use_on_equal_length BOOLEAN false; {_SPAN}; view_opts VIEW_OPTS'
_SIZES = "context_length INT 16; context_stride INT 1; context_overlap INT 4"

WINDOWS = (
    _windows(
        "ADE_StandardStaticContextOptions",
        f"context_length INT 16; context_overlap INT 4; {_FUSED}",
        "standard_static",
        stride=False,
    ),
    _windows("ADE_StandardUniformContextOptions", f"{_SIZES}; {_FUSED}", "standard_uniform"),
    _windows("ADE_LoopedUniformContextOptions", f"{_SIZES}; closed_loop BOOLEAN false; {_FUSED}", "looped_uniform"),
    _windows(
        "ADE_AnimateDiffUniformContextOptions",
        f'{_SIZES}; context_schedule COMBO "uniform"; closed_loop BOOLEAN false;'
        f'{_FUSED.replace("pyramid", "flat")}; {DEPRECATED}',
        of("context_schedule", SCHEDULES),
    ),
    _windows("ADE_BatchedContextOptions", f"context_length INT 16; {_SPAN}", "batched", stride=False),
)

LOADERS = (
    row(
        "ADE_AnimateDiffLoaderGen1",
        f'model MODEL; model_name COMBO; beta_schedule COMBO "autoselect"; context_options CONTEXT_OPTIONS;'
        f"motion_lora MOTION_LORA; {SETTINGS}; ad_keyframes AD_KEYFRAMES; sample_settings SAMPLE_SETTINGS;"
        "scale_multival MULTIVAL; effect_multival MULTIVAL; per_block PER_BLOCK",
        "MODEL",
        MODULE,
        SCHEDULE,
        reads=MULTIVAL,
        emits={0: "model"},
        home="apply",
    ),
    row(
        "ADE_AnimateDiffLoaderWithContext",
        f'model MODEL; model_name COMBO; beta_schedule COMBO "autoselect"; context_options CONTEXT_OPTIONS;'
        f"motion_lora MOTION_LORA; {SETTINGS}; sample_settings SAMPLE_SETTINGS; motion_scale FLOAT 1.0;"
        f"apply_v2_models_properly BOOLEAN false; ad_keyframes AD_KEYFRAMES; {DEPRECATED}",
        "MODEL",
        MODULE,
        SCHEDULE,
        Give("apply", {"norm_scope": made(norm_scope, "apply_v2_models_properly", "model_name")}),
        Give("amount", {"scale": of("motion_scale")}),
        emits={0: "model"},
        home="apply",
    ),
    row(
        "AnimateDiffLoaderV1",
        "model MODEL; latents LATENT; model_name COMBO; unlimited_area_hack BOOLEAN false;"
        f'beta_schedule COMBO "sqrt_linear (AnimateDiff)"; {DEPRECATED}',
        "MODEL LATENT",
        MODULE,
        SCHEDULE,
        Give("apply", {"norm_scope": made(lambda name: norm_scope(False, name), "model_name")}),
        ignored=("unlimited_area_hack",),
        emits={0: "model", 1: "latents"},
        home="apply",
    ),
    row(
        "ADE_AnimateDiffLoaderV1Advanced",
        "model MODEL; latents LATENT; model_name COMBO; unlimited_area_hack BOOLEAN false;"
        f'{_SIZES}; context_schedule COMBO "uniform"; closed_loop BOOLEAN false;'
        f'beta_schedule COMBO "sqrt_linear (AnimateDiff)"; {DEPRECATED}',
        "MODEL LATENT",
        MODULE,
        SCHEDULE,
        Give("apply", {"norm_scope": made(lambda name: norm_scope(False, name), "model_name")}),
        Give(
            "windows",
            {
                "length": of("context_length"),
                "stride": of("context_stride"),
                "overlap": of("context_overlap"),
                "schedule": of("context_schedule", SCHEDULES),
                "closed_loop": of("closed_loop"),
                "fuse": "flat",
            },
        ),
        ignored=("unlimited_area_hack",),
        emits={0: "model", 1: "latents"},
        home="apply",
    ),
    row(
        "ADE_LoadAnimateDiffModel",
        f"model_name COMBO; {SETTINGS}",
        "MOTION_MODEL_ADE",
        MODULE,
        emits={0: ("module", 0)},
        home="module",
    ),
    row(
        "ADE_LoadAnimateLCMI2VModel",
        f"model_name COMBO; {SETTINGS}",
        "MOTION_MODEL_ADE MOTION_MODEL_ADE",
        MODULE,
        emits={0: ("module", 0)},
        home="module",
    ),
    row(
        "ADE_UseEvolvedSampling",
        'model MODEL; beta_schedule COMBO "autoselect"; m_models M_MODELS; context_options CONTEXT_OPTIONS;'
        "sample_settings SAMPLE_SETTINGS",
        "MODEL",
        Give("apply", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, weak=True),
        Give("schedule", {"beta_schedule": of("beta_schedule", {**BETA_SCHEDULES, "autoselect": "keep"})}),
        emits={0: "model"},
    ),
    row(
        "ADE_ApplyAnimateDiffModelSimple",
        "motion_model MOTION_MODEL_ADE; motion_lora MOTION_LORA; scale_multival MULTIVAL; effect_multival MULTIVAL;"
        "ad_keyframes AD_KEYFRAMES; per_block PER_BLOCK",
        "M_MODELS",
        APPLIED,
        reads=MULTIVAL,
        groups=True,
    ),
    row(
        "ADE_ApplyAnimateDiffModel",
        "motion_model MOTION_MODEL_ADE; start_percent FLOAT 0.0; end_percent FLOAT 1.0; motion_lora MOTION_LORA;"
        "scale_multival MULTIVAL; effect_multival MULTIVAL; ad_keyframes AD_KEYFRAMES; prev_m_models M_MODELS;"
        "per_block PER_BLOCK",
        "M_MODELS",
        APPLIED,
        reads=MULTIVAL,
        fold=range_of,
        chain="prev_m_models",
        groups=True,
    ),
    row(
        "ADE_ApplyAnimateLCMI2VModel",
        "motion_model MOTION_MODEL_ADE; ref_latent LATENT; ref_drift FLOAT 0.0;"
        "apply_ref_when_disabled BOOLEAN false; start_percent FLOAT 0.0; end_percent FLOAT 1.0;"
        "motion_lora MOTION_LORA; scale_multival MULTIVAL; effect_multival MULTIVAL; ad_keyframes AD_KEYFRAMES;"
        "prev_m_models M_MODELS; per_block PER_BLOCK",
        "M_MODELS",
        APPLIED,
        Give("i2v", {"picture": of("ref_latent"), "motion_scale": of("ref_drift")}),
        reads=MULTIVAL,
        fold=range_of,
        ignored=("apply_ref_when_disabled",),
        chain="prev_m_models",
        groups=True,
    ),
    row("ADE_AnimateDiffUnload", "model MODEL", "MODEL", emits={0: "model"}),
)

MOTION = (
    row(
        "ADE_AnimateDiffLoRALoader",
        "name COMBO; strength FLOAT 1.0; prev_motion_lora MOTION_LORA",
        "MOTION_LORA",
        Give("lora", {"lora_name": of("name"), "strength": of("strength")}, again=True),
        chain="prev_motion_lora",
    ),
    row(
        "ADE_AnimateDiffSettings", "pe_adjust PE_ADJUST; weight_adjust WEIGHT_ADJUST", "AD_SETTINGS",
    ),
    row(
        "ADE_AdjustPESweetspotStretch",
        "sweetspot INT 16; new_sweetspot INT 16; print_adjustment BOOLEAN false; prev_pe_adjust PE_ADJUST",
        "PE_ADJUST",
        Give("module", {"position_cap": of("sweetspot"), "position_interpolate": of("new_sweetspot")}),
        ignored=("print_adjustment",),
        chain="prev_pe_adjust",
    ),
    row(
        "ADE_AdjustPEFullStretch",
        "pe_stretch INT 0; print_adjustment BOOLEAN false; prev_pe_adjust PE_ADJUST",
        "PE_ADJUST",
        Give("module", {"position_stretch": of("pe_stretch")}),
        ignored=("print_adjustment",),
        chain="prev_pe_adjust",
    ),
    row(
        "ADE_AdjustPEManual",
        "cap_initial_pe_length INT 0; interpolate_pe_to_length INT 0; initial_pe_idx_offset INT 0;"
        "final_pe_idx_offset INT 0; print_adjustment BOOLEAN false; prev_pe_adjust PE_ADJUST",
        "PE_ADJUST",
        Give(
            "module",
            {
                "position_cap": of("cap_initial_pe_length"),
                "position_interpolate": of("interpolate_pe_to_length"),
                "position_skip": of("initial_pe_idx_offset"),
                "position_skip_after": of("final_pe_idx_offset"),
            },
        ),
        ignored=("print_adjustment",),
        chain="prev_pe_adjust",
    ),
)



def _weights(kind: str, parts: str, operation: str) -> Row:
    """Changes of a motion module's weights: only all of them at once have a counterpart."""
    neutral = 1.0 if operation == "MULT" else 0.0
    names = [f"{part}_{operation}" for part in parts.split()]
    inputs = "".join(f"{name} FLOAT {neutral}; " for name in names)
    word = "weights_times" if operation == "MULT" else "weights_plus"
    whole = names[0] == f"all_{operation}"
    gives = [Give("module", {word: of(names[0])})] if whole else []
    lost = {} if whole else {name: Only((neutral,), "these weights stay as they were trained") for name in names}
    return row(
        kind,
        f"{inputs}print_adjustment BOOLEAN false; prev_weight_adjust WEIGHT_ADJUST",
        "WEIGHT_ADJUST",
        *gives,
        only=lost,
        ignored=("print_adjustment",),
        chain="prev_weight_adjust",
    )


_PARTS = "pe attn other"
_MORE_PARTS = "pe attn attn_q attn_k attn_v attn_out_weight attn_out_bias other"
WEIGHTS = (
    _weights("ADE_AdjustWeightAllAdd", "all", "ADD"),
    _weights("ADE_AdjustWeightAllMult", "all", "MULT"),
    _weights("ADE_AdjustWeightIndivAdd", _PARTS, "ADD"),
    _weights("ADE_AdjustWeightIndivMult", _PARTS, "MULT"),
    _weights("ADE_AdjustWeightIndivAttnAdd", _MORE_PARTS, "ADD"),
    _weights("ADE_AdjustWeightIndivAttnMult", _MORE_PARTS, "MULT"),
)

_PIA_APPLY = (
    "motion_model MOTION_MODEL_ADE; image IMAGE; vae VAE; start_percent FLOAT 0.0; end_percent FLOAT 1.0;"
    "pia_input PIA_INPUT; motion_lora MOTION_LORA; scale_multival MULTIVAL; effect_multival MULTIVAL;"
    "ad_keyframes AD_KEYFRAMES; prev_m_models M_MODELS; per_block PER_BLOCK"
)
PIA = (
    row(
        "ADE_ApplyAnimateDiffModelWithPIA",
        _PIA_APPLY,
        "M_MODELS",
        APPLIED,
        Give("encode", {"pixels": of("image"), "vae": of("vae")}),
        reads=MULTIVAL,
        fold=range_of,
        chain="prev_m_models",
        groups=True,
    ),
    row(
        "ADE_InputPIA_PaperPresets",
        'preset COMBO "Animation (Small Motion)"; batch_index INT 0; mult_multival MULTIVAL;'
        "print_values BOOLEAN false",
        "PIA_INPUT",
        Give("pia", {"preset": of("preset", PIA_PRESETS), "frame": of("batch_index")}),
        reads={"mult_multival": {"value": "pia:strength"}},
        ignored=("print_values",),
    ),
    row(
        "ADE_InputPIA_Multival",
        "multival MULTIVAL",
        "PIA_INPUT",
        Give("pia", {"preset": "custom"}),
        reads={"multival": {"value": "pia:influence"}},
    ),
)

_SAMPLING = (
    "batch_offset INT 0; noise_type COMBO \"default\"; seed_gen COMBO \"comfy\"; seed_offset INT 0;"
    "noise_layers NOISE_LAYERS; iteration_opts ITERATION_OPTS;"
    f"{SEED}; adapt_denoise_steps BOOLEAN false; custom_cfg CUSTOM_CFG; sigma_schedule SIGMA_SCHEDULE;"
    "image_inject IMAGE_INJECT; ancestral_opts ANCESTRAL_OPTS"
)
OFFSETS = {
    "batch_offset": Only((0,), "the noise is that of the first frames"),
    "seed_offset": Only((0,), "the noise is that of the sampler's seed"),
    "seed_override": Only((None,), "the noise is that of the sampler's seed"),
}
SAMPLING = (
    row(
        "ADE_AnimateDiffSamplingSettings",
        _SAMPLING,
        "SAMPLE_SETTINGS",
        Give("windows", {"free_noise": True}, weak=True, when=("noise_type", ("FreeNoise",))),
        Give("noise", {"kind": of("noise_type", NOISES)}, when=("noise_type", OTHER_NOISES)),
        only={**OFFSETS, "seed_gen": Only(("comfy",), "the noise of all frames comes from one generator")},
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
        Give("apply", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, weak=True, over=True),
        Give("schedule", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, over=True),
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
        "ADE_AnimateDiffCombine",
        'images IMAGE; frame_rate INT 8; loop_count INT 0; filename_prefix STRING "AnimateDiff";'
        f'format COMBO "image/gif"; pingpong BOOLEAN false; save_image BOOLEAN true; {PREVIEW}; {DEPRECATED}',
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
        ignored=("save_image", "preview"),
        emits={},
        home="clip",
    ),
)

WITHOUT = (
    *(
        Row(kind, {}, tuple(outputs.split()), why=why)
        for why, kinds in {
            "windows inside the motion modules have no node here": {
                "ADE_StandardStaticViewOptions": "VIEW_OPTS",
                "ADE_StandardUniformViewOptions": "VIEW_OPTS",
                "ADE_LoopedUniformViewOptions": "VIEW_OPTS",
                "ADE_ViewsOnlyContextOptions": "CONTEXT_OPTIONS",
            },
        }.items()
        for kind, outputs in kinds.items()
    ),
)

ROWS = (*WINDOWS, *LOADERS, *MOTION, *WEIGHTS, *PIA, *SAMPLING, *OTHERS, *WITHOUT)
