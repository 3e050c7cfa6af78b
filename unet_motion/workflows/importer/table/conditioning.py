"""AnimateDiff-Evolved's LoRA hooks and conditioning nodes, which ComfyUI's core took over node by node."""

from __future__ import annotations

from typing import Any

from .rows import Give, Only, Row, of, row

WARNING = "deprecation_warning ADEWARN"
ONE_STEP = Only((0, 1), "a key lasts as long as its range holds a step")
_EASE = {name: name for name in ("linear", "ease_in", "ease_out", "ease_in_out")}


def _core(old: str, new: str, inputs: str, outputs: str, values: dict[str, Any], **rest: Any) -> Row:
    """One core node with the same values; `values`: its inputs -> theirs, or `Of`."""
    given = {ours: of(theirs) if isinstance(theirs, str) else theirs for ours, theirs in values.items()}
    emits = rest.pop("emits", {place: (f"@{new}", place) for place in range(len(outputs.split()))})
    return row(old, f"{inputs}; {WARNING}", outputs, Give(f"@{new}", given), emits=emits, home=f"@{new}", **rest)


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


_SET = 'strength FLOAT 1.0; set_cond_area COMBO "default"; opt_mask MASK; opt_lora_hook HOOKS;'
_SET += "opt_timesteps TIMESTEPS_RANGE"
_SET_VALUES = {
    "strength": "strength",
    "set_cond_area": of("set_cond_area", {"default": "default", "mask bounds": "mask bounds"}),
    "mask": "opt_mask",
    "hooks": "opt_lora_hook",
    "timesteps": "opt_timesteps",
}
_PAIR = "positive CONDITIONING; negative CONDITIONING"
_PAIR_ADD = "positive_ADD CONDITIONING; negative_ADD CONDITIONING"
_PAIR_NEW = {"positive_NEW": "positive_ADD", "negative_NEW": "negative_ADD"}
_LETTERS = "ABCDEFGH"
_STRENGTHS = "strength_model FLOAT 1.0; strength_clip FLOAT 1.0"


def _combine(old: str, new: str, count: int) -> Row:
    inputs = "; ".join(f"lora_hook_{letter} HOOKS" for letter in _LETTERS[:count])
    values = {f"hooks_{letter}": f"lora_hook_{letter}" for letter in _LETTERS[:count]}
    return _core(old, new, inputs, "HOOKS", values)


ROWS: tuple[Row, ...] = (
    _core(
        "ADE_RegisterLoraHook",
        "CreateHookLora",
        f"model MODEL; clip CLIP; lora_name COMBO; {_STRENGTHS}",
        "MODEL CLIP HOOKS",
        _same("lora_name strength_model strength_clip"),
        emits={0: "model", 1: "clip", 2: ("@CreateHookLora", 0)},
    ),
    _core(
        "ADE_RegisterLoraHookModelOnly",
        "CreateHookLoraModelOnly",
        "model MODEL; lora_name COMBO; strength_model FLOAT 1.0",
        "MODEL HOOKS",
        _same("lora_name strength_model"),
        emits={0: "model", 1: ("@CreateHookLoraModelOnly", 0)},
    ),
    _core(
        "ADE_RegisterModelAsLoraHook",
        "CreateHookModelAsLora",
        f"model MODEL; clip CLIP; ckpt_name COMBO; {_STRENGTHS}",
        "MODEL CLIP HOOKS",
        _same("ckpt_name strength_model strength_clip"),
        emits={0: "model", 1: "clip", 2: ("@CreateHookModelAsLora", 0)},
    ),
    _core(
        "ADE_RegisterModelAsLoraHookModelOnly",
        "CreateHookModelAsLoraModelOnly",
        "model MODEL; ckpt_name COMBO; strength_model FLOAT 1.0",
        "MODEL HOOKS",
        _same("ckpt_name strength_model"),
        emits={0: "model", 1: ("@CreateHookModelAsLoraModelOnly", 0)},
    ),
    _combine("ADE_CombineLoraHooks", "CombineHooks2", 2),
    _combine("ADE_CombineLoraHooksFour", "CombineHooks4", 4),
    _combine("ADE_CombineLoraHooksEight", "CombineHooks8", 8),
    _core(
        "ADE_SetLoraHookKeyframe",
        "SetHookKeyframes",
        "lora_hook HOOKS; hook_kf HOOK_KEYFRAMES",
        "HOOKS",
        {"hooks": "lora_hook", "hook_kf": "hook_kf"},
    ),
    _core(
        "ADE_AttachLoraHookToCLIP",
        "SetClipHooks",
        "clip CLIP; lora_hook HOOKS",
        "CLIP",
        {"clip": "clip", "hooks": "lora_hook"},
    ),
    _core(
        "ADE_LoraHookKeyframe",
        "CreateHookKeyframe",
        "strength_model FLOAT 1.0; start_percent FLOAT 0.0; guarantee_steps INT 1; prev_hook_kf HOOK_KEYFRAMES",
        "HOOK_KEYFRAMES",
        {"strength_mult": "strength_model", "start_percent": "start_percent", "prev_hook_kf": "prev_hook_kf"},
        only={"guarantee_steps": ONE_STEP},
    ),
    _core(
        "ADE_LoraHookKeyframeInterpolation",
        "CreateHookKeyframesInterpolated",
        "start_percent FLOAT 0.0; end_percent FLOAT 1.0; strength_start FLOAT 1.0; strength_end FLOAT 1.0;"
        'interpolation COMBO "linear"; intervals INT 5; print_keyframes BOOLEAN false; prev_hook_kf HOOK_KEYFRAMES',
        "HOOK_KEYFRAMES",
        {
            **_same("strength_start strength_end start_percent end_percent print_keyframes prev_hook_kf"),
            "interpolation": of("interpolation", _EASE),
            "keyframes_count": "intervals",
        },
    ),
    _core(
        "ADE_LoraHookKeyframeFromStrengthList",
        "CreateHookKeyframesFromFloats",
        "strengths_float FLOAT -1!; start_percent FLOAT 0.0; end_percent FLOAT 1.0; print_keyframes BOOLEAN false;"
        "prev_hook_kf HOOK_KEYFRAMES",
        "HOOK_KEYFRAMES",
        {**_same("start_percent end_percent print_keyframes prev_hook_kf"), "floats_strength": "strengths_float"},
    ),
    _core(
        "ADE_AttachLoraHookToConditioning",
        "ConditioningSetProperties",
        "conditioning CONDITIONING; lora_hook HOOKS",
        "CONDITIONING",
        {"cond_NEW": "conditioning", "hooks": "lora_hook"},
    ),
    _core(
        "ADE_PairedConditioningSetMask",
        "PairConditioningSetProperties",
        f"{_PAIR_ADD}; {_SET}",
        "CONDITIONING CONDITIONING",
        {**_PAIR_NEW, **_SET_VALUES},
    ),
    _core(
        "ADE_ConditioningSetMask",
        "ConditioningSetProperties",
        f"cond_ADD CONDITIONING; {_SET}",
        "CONDITIONING",
        {"cond_NEW": "cond_ADD", **_SET_VALUES},
    ),
    _core(
        "ADE_PairedConditioningSetMaskAndCombine",
        "PairConditioningSetPropertiesAndCombine",
        f"{_PAIR}; {_PAIR_ADD}; {_SET}",
        "CONDITIONING CONDITIONING",
        {**_same("positive negative"), **_PAIR_NEW, **_SET_VALUES},
    ),
    _core(
        "ADE_ConditioningSetMaskAndCombine",
        "ConditioningSetPropertiesAndCombine",
        f"cond CONDITIONING; cond_ADD CONDITIONING; {_SET}",
        "CONDITIONING",
        {"cond": "cond", "cond_NEW": "cond_ADD", **_SET_VALUES},
    ),
    _core(
        "ADE_PairedConditioningSetUnmaskedAndCombine",
        "PairConditioningSetDefaultCombine",
        f"{_PAIR}; positive_DEFAULT CONDITIONING; negative_DEFAULT CONDITIONING; opt_lora_hook HOOKS",
        "CONDITIONING CONDITIONING",
        {**_same("positive negative positive_DEFAULT negative_DEFAULT"), "hooks": "opt_lora_hook"},
    ),
    _core(
        "ADE_ConditioningSetUnmaskedAndCombine",
        "ConditioningSetDefaultCombine",
        "cond CONDITIONING; cond_DEFAULT CONDITIONING; opt_lora_hook HOOKS",
        "CONDITIONING",
        {**_same("cond cond_DEFAULT"), "hooks": "opt_lora_hook"},
    ),
    _core(
        "ADE_PairedConditioningCombine",
        "PairConditioningCombine",
        "positive_A CONDITIONING; negative_A CONDITIONING; positive_B CONDITIONING; negative_B CONDITIONING",
        "CONDITIONING CONDITIONING",
        _same("positive_A negative_A positive_B negative_B"),
    ),
    _core(
        "ADE_ConditioningCombine",
        "ConditioningCombine",
        "cond_A CONDITIONING; cond_B CONDITIONING",
        "CONDITIONING",
        {"conditioning_1": "cond_A", "conditioning_2": "cond_B"},
    ),
    _core(
        "ADE_TimestepsConditioning",
        "ConditioningTimestepsRange",
        "start_percent FLOAT 0.0; end_percent FLOAT 1.0",
        "TIMESTEPS_RANGE",
        _same("start_percent end_percent"),
    ),
)
