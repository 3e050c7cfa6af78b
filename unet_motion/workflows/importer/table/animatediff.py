"""AnimateDiff-Evolved's motion models, LoRAs, context windows and settings of motion models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from .over_time import MULTIVAL, range_of, scaled_by_mask
from .rows import Fold, Give, Named, Only, Row, made, of, row
from .values import (
    BETA_SCHEDULES,
    FUSES,
    NORMS,
    PIA_PRESETS,
    SCHEDULES,
    norm_scope,
    schedule_by_name,
    schedule_of,
)

DEPRECATED = "deprecation_warning ADEWARN"
SETTINGS = "ad_settings AD_SETTINGS"
POSITIONS = {
    "position_cap": of("cap_initial_pe_length"),
    "position_interpolate": of("interpolate_pe_to_length"),
    "position_skip": of("initial_pe_idx_offset"),
    "position_skip_after": of("final_pe_idx_offset"),
}
MODULE = Give("module", {"motion_module": of("model_name")})
SCHEDULE = Give("apply", {"beta_schedule": made(schedule_of, "beta_schedule", "model_name")})
APPLIED = Give(
    "apply",
    {"motion_module": of("motion_model"), "beta_schedule": Named(schedule_by_name, "motion_model", "model_name")},
)
# For one beside others: its part of the steps, and what tells which of them has to be the first.
BESIDE = (
    Give("add", {"start_percent": of("start_percent"), "end_percent": of("end_percent")}, weak=True),
    Give("file", {"name": Named(str, "motion_model", "model_name")}, weak=True),
)
OLD_MASK = {"ad_settings": MULTIVAL["scale_multival"]}  # which nodes of the second generation do not read
ONE_STEP = Only((0, 1), "the setting lasts as long as its range holds a step")
INSIDE = Only((), "windows inside the motion modules of each window are not there; the window is their window")


def _windows(
    kind: str, inputs: str, schedule: Any, stride: bool = True, overlap: int | None = None,
    absent: Mapping[str, Any] = MappingProxyType({}),
) -> Row:  # fmt: skip
    """Options of context windows; `inputs` in their order."""
    given = {"length": of("context_length"), "schedule": schedule, "start_percent": of("start_percent")}
    given["overlap"] = of("context_overlap") if overlap is None else overlap
    if stride:
        given["stride"] = of("context_stride")
    if "closed_loop" in inputs:
        given["closed_loop"] = of("closed_loop")
    if "fuse_method" in inputs:
        given["fuse"] = of("fuse_method", FUSES)
    if "use_on_equal_length" in inputs:
        given["use_on_equal_length"] = of("use_on_equal_length")
    noise = {"window_length": given["length"], "overlap": given["overlap"]}
    return row(
        kind,
        inputs,
        "CONTEXT_OPTIONS",
        Give("windows", given, again=True),
        Give("noise", noise, weak=True),
        chain="prev_context",
        only={"guarantee_steps": ONE_STEP, **({"view_opts": INSIDE} if "view_opts" in inputs else {})},
        absent=absent,
    )


def views_only(values: Mapping[str, Any], reads: Mapping[str, Any]) -> Iterator[Fold]:
    """Windows inside the motion modules, of the length and overlap of the views."""
    views = reads.get("view_opts_req", {})
    if views:
        yield "windows", {**views, "views": True, "start_percent": values["start_percent"]}, None
    else:
        yield "", {}, "view_opts_req is not there or not known: there are no windows"


def _views(
    kind: str, inputs: str, schedule: str, more: tuple[str, ...] = (), absent: Mapping[str, Any] = MappingProxyType({})
) -> Row:
    """Options of windows inside the motion modules."""
    sizes = {"length": of("view_length"), "overlap": of("view_overlap")}
    given = {**sizes, "schedule": schedule, "fuse": of("fuse_method", FUSES)}
    given |= {"stride": of("view_stride")} if "view_stride" in inputs else {}
    noise = {"window_length": sizes["length"], "overlap": sizes["overlap"]}
    return row(
        kind,
        inputs,
        "VIEW_OPTS",
        Give("value", {**given, **{name: of(name) for name in more}}),
        Give("noise", noise, weak=True),
        folds=("windows",),
        absent=absent,
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
    _windows(
        "ADE_LoopedUniformContextOptions",
        f"{_SIZES}; closed_loop BOOLEAN false; {_FUSED}",
        "looped_uniform",
        absent={"fuse_method": "flat"},
    ),
    _windows(
        "ADE_AnimateDiffUniformContextOptions",
        f'{_SIZES}; context_schedule COMBO "uniform"; closed_loop BOOLEAN false;'
        f"{_FUSED.replace('pyramid', 'flat')}; {DEPRECATED}",
        of("context_schedule", SCHEDULES),
    ),
    _windows("ADE_BatchedContextOptions", f"context_length INT 16; {_SPAN}", "batched", stride=False, overlap=0),
)

_VIEWED = "view_length INT 16; view_stride INT 1; view_overlap INT 4"
_VIEWS_FUSED = 'fuse_method COMBO "pyramid"'
VIEWS = (
    row(
        "ADE_ViewsOnlyContextOptions",
        "view_opts_req VIEW_OPTS; start_percent FLOAT 0.0; guarantee_steps INT 1; prev_context CONTEXT_OPTIONS",
        "CONTEXT_OPTIONS",
        fold=views_only,
        folds=("windows",),
        only={"guarantee_steps": ONE_STEP},
        chain="prev_context",
    ),
    _views(
        "ADE_StandardStaticViewOptions",
        f"view_length INT 16; view_overlap INT 4; {_VIEWS_FUSED}",
        "standard_static",
        absent={"fuse_method": "flat"},
    ),
    _views("ADE_StandardUniformViewOptions", f"{_VIEWED}; {_VIEWS_FUSED}", "standard_uniform"),
    _views(
        "ADE_LoopedUniformViewOptions",
        f"{_VIEWED}; closed_loop BOOLEAN false; {_VIEWS_FUSED}; use_on_equal_length BOOLEAN false",
        "looped_uniform",
        ("closed_loop", "use_on_equal_length"),
    ),
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
        reads={**MULTIVAL, **OLD_MASK},
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
        reads=OLD_MASK,
        formerly={"motion_model_settings": "ad_settings"},
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
        defect="AnimateDiff-Evolved itself does not run it any more: it lost its own schedule `uniform`",
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
        Give("apply", {"beta_schedule": of("beta_schedule", BETA_SCHEDULES)}, weak=True, over=1),
        Give("schedule", {"beta_schedule": of("beta_schedule", {**BETA_SCHEDULES, "autoselect": "keep"})}),
        emits={0: "model"},
    ),
    row(
        "ADE_ApplyAnimateDiffModelSimple",
        "motion_model MOTION_MODEL_ADE; motion_lora MOTION_LORA; scale_multival MULTIVAL; effect_multival MULTIVAL;"
        "ad_keyframes AD_KEYFRAMES; per_block PER_BLOCK",
        "M_MODELS",
        APPLIED,
        BESIDE[1],
        reads=MULTIVAL,
        folds=("add",),
        groups=True,
    ),
    row(
        "ADE_ApplyAnimateDiffModel",
        "motion_model MOTION_MODEL_ADE; start_percent FLOAT 0.0; end_percent FLOAT 1.0; motion_lora MOTION_LORA;"
        "scale_multival MULTIVAL; effect_multival MULTIVAL; ad_keyframes AD_KEYFRAMES; prev_m_models M_MODELS;"
        "per_block PER_BLOCK",
        "M_MODELS",
        APPLIED,
        *BESIDE,
        reads=MULTIVAL,
        fold=range_of,
        folds=("effect_curve", "add"),
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
        *BESIDE,
        Give("i2v", {"picture": of("ref_latent"), "motion_scale": of("ref_drift")}),
        reads=MULTIVAL,
        fold=range_of,
        folds=("effect_curve", "add"),
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
        "ADE_AnimateDiffSettings",
        "pe_adjust PE_ADJUST; weight_adjust WEIGHT_ADJUST",
        "AD_SETTINGS",
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
        Give("module", POSITIONS),
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


_SCALED = "mask_motion_scale MASK; min_motion_scale FLOAT 1.0; max_motion_scale FLOAT 1.0"
_MOVES = (
    "cap_initial_pe_length INT 0; interpolate_pe_to_length INT 0; initial_pe_idx_offset INT 0;final_pe_idx_offset INT 0"
)


def _settings(kind: str, strengths: str, positions: str) -> Row:
    """The settings of a motion model before they had nodes of their own."""
    names = strengths.split()
    lost = {name: Only((1, 1.0), "these weights stay as they were trained") for name in names}
    given = {"position_stretch": of("motion_pe_stretch")} if positions else {}
    return row(
        kind,
        "".join(f"{name} FLOAT 1.0; " for name in names) + f"{positions}{_SCALED}; {DEPRECATED}",
        "AD_SETTINGS",
        Give("module", {**given, **(POSITIONS if "cap" in positions else {})}, weak=True),
        fold=scaled_by_mask,
        folds=("module", "amount"),
        only=lost,
    )


_STRETCH = "motion_pe_stretch INT 0; "
_ATTENTION = "attn_q attn_k attn_v attn_out_weight attn_out_bias"
OLD_SETTINGS = (
    _settings("ADE_AnimateDiffModelSettings_Release", "", ""),
    _settings("ADE_AnimateDiffModelSettingsSimple", "", _STRETCH),
    _settings(
        "ADE_AnimateDiffModelSettings",
        "pe_strength attn_strength other_strength",
        f"{_STRETCH}{_MOVES}; ",
    ),
    _settings(
        "ADE_AnimateDiffModelSettingsAdvancedAttnStrengths",
        "pe_strength attn_strength " + " ".join(f"{part}_strength" for part in _ATTENTION.split()) + " other_strength",
        f"{_STRETCH}{_MOVES}; ",
    ),
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
        *BESIDE,
        Give("encode", {"pixels": of("image"), "vae": of("vae")}),
        reads=MULTIVAL,
        fold=range_of,
        folds=("effect_curve", "add"),
        chain="prev_m_models",
        groups=True,
        defect=NORMS,
    ),
    row(
        "ADE_InputPIA_PaperPresets",
        'preset COMBO "Animation (Small Motion)"; batch_index INT 0; mult_multival MULTIVAL;print_values BOOLEAN false',
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

ROWS: tuple[Row, ...] = (*WINDOWS, *VIEWS, *LOADERS, *MOTION, *WEIGHTS, *OLD_SETTINGS, *PIA)
