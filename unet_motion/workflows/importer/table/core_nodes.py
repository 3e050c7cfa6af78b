"""Core nodes that conversions write and that have no more to say than their inputs and outputs."""

NODES = (
    (
        "CreateHookLora",
        "lora_name COMBO; strength_model FLOAT 1.0; strength_clip FLOAT 1.0; prev_hooks HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CreateHookLoraModelOnly",
        "lora_name COMBO; strength_model FLOAT 1.0; prev_hooks HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CreateHookModelAsLora",
        "ckpt_name COMBO; strength_model FLOAT 1.0; strength_clip FLOAT 1.0; prev_hooks HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CreateHookModelAsLoraModelOnly",
        "ckpt_name COMBO; strength_model FLOAT 1.0; prev_hooks HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CombineHooks2",
        "hooks_A HOOKS; hooks_B HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CombineHooks4",
        "hooks_A HOOKS; hooks_B HOOKS; hooks_C HOOKS; hooks_D HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "CombineHooks8",
        "hooks_A HOOKS; hooks_B HOOKS; hooks_C HOOKS; hooks_D HOOKS; hooks_E HOOKS; hooks_F HOOKS; hooks_G "
        "HOOKS; hooks_H HOOKS",
        "HOOKS:HOOKS",
    ),
    (
        "SetHookKeyframes",
        "hooks HOOKS; hook_kf HOOK_KEYFRAMES",
        "HOOKS:HOOKS",
    ),
    (
        "SetClipHooks",
        "clip CLIP; apply_to_conds BOOLEAN true; schedule_clip BOOLEAN false; hooks HOOKS",
        "CLIP:CLIP",
    ),
    (
        "CreateHookKeyframe",
        "strength_mult FLOAT 1.0; start_percent FLOAT 0.0; prev_hook_kf HOOK_KEYFRAMES",
        "HOOK_KF:HOOK_KEYFRAMES",
    ),
    (
        "CreateHookKeyframesInterpolated",
        'strength_start FLOAT 1.0; strength_end FLOAT 1.0; interpolation COMBO "linear"; start_percent FLOAT '
        "0.0; end_percent FLOAT 1.0; keyframes_count INT 5; print_keyframes BOOLEAN false; prev_hook_kf "
        "HOOK_KEYFRAMES",
        "HOOK_KF:HOOK_KEYFRAMES",
    ),
    (
        "CreateHookKeyframesFromFloats",
        "floats_strength FLOATS; start_percent FLOAT 0.0; end_percent FLOAT 1.0; print_keyframes BOOLEAN "
        "false; prev_hook_kf HOOK_KEYFRAMES",
        "HOOK_KF:HOOK_KEYFRAMES",
    ),
    (
        "ConditioningSetProperties",
        'cond_NEW CONDITIONING; strength FLOAT 1.0; set_cond_area COMBO "default"; mask MASK; hooks HOOKS; '
        "timesteps TIMESTEPS_RANGE",
        "CONDITIONING:CONDITIONING",
    ),
    (
        "PairConditioningSetProperties",
        "positive_NEW CONDITIONING; negative_NEW CONDITIONING; strength FLOAT 1.0; set_cond_area COMBO "
        '"default"; mask MASK; hooks HOOKS; timesteps TIMESTEPS_RANGE',
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    (
        "PairConditioningSetPropertiesAndCombine",
        "positive CONDITIONING; negative CONDITIONING; positive_NEW CONDITIONING; negative_NEW CONDITIONING; "
        'strength FLOAT 1.0; set_cond_area COMBO "default"; mask MASK; hooks HOOKS; timesteps TIMESTEPS_RANGE',
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    (
        "ConditioningSetPropertiesAndCombine",
        'cond CONDITIONING; cond_NEW CONDITIONING; strength FLOAT 1.0; set_cond_area COMBO "default"; mask '
        "MASK; hooks HOOKS; timesteps TIMESTEPS_RANGE",
        "CONDITIONING:CONDITIONING",
    ),
    (
        "PairConditioningSetDefaultCombine",
        "positive CONDITIONING; negative CONDITIONING; positive_DEFAULT CONDITIONING; negative_DEFAULT "
        "CONDITIONING; hooks HOOKS",
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    (
        "ConditioningSetDefaultCombine",
        "cond CONDITIONING; cond_DEFAULT CONDITIONING; hooks HOOKS",
        "CONDITIONING:CONDITIONING",
    ),
    (
        "PairConditioningCombine",
        "positive_A CONDITIONING; negative_A CONDITIONING; positive_B CONDITIONING; negative_B CONDITIONING",
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    (
        "ConditioningCombine",
        "conditioning_1 CONDITIONING; conditioning_2 CONDITIONING",
        "CONDITIONING:CONDITIONING",
    ),
    (
        "ConditioningTimestepsRange",
        "start_percent FLOAT 0.0; end_percent FLOAT 1.0",
        "TIMESTEPS_RANGE:TIMESTEPS_RANGE BEFORE_RANGE:TIMESTEPS_RANGE AFTER_RANGE:TIMESTEPS_RANGE",
    ),
    (
        "ControlNetLoader",
        "control_net_name COMBO",
        "CONTROL_NET:CONTROL_NET",
    ),
    (
        "ControlNetApplyAdvanced",
        "positive CONDITIONING; negative CONDITIONING; control_net CONTROL_NET; image IMAGE; strength FLOAT "
        "1.0; start_percent FLOAT 0.0; end_percent FLOAT 1.0; vae VAE",
        "positive:CONDITIONING negative:CONDITIONING",
    ),
    (
        "ControlNetApply",
        "conditioning CONDITIONING; control_net CONTROL_NET; image IMAGE; strength FLOAT 1.0",
        "CONDITIONING:CONDITIONING",
    ),
    (
        "DiffControlNetLoader",
        "model MODEL; control_net_name COMBO",
        "CONTROL_NET:CONTROL_NET",
    ),
    (
        "LoadVideo",
        "file COMBO ^",
        "VIDEO:VIDEO",
    ),
    (
        "GetVideoComponents",
        "video VIDEO",
        "images:IMAGE audio:AUDIO fps:FLOAT bit_depth:INT color_space:COMBO",
    ),
    (
        "ImageFromBatch",
        "image IMAGE; batch_index INT 0; length INT 1",
        "IMAGE:IMAGE",
    ),
    (
        "GetImageSize",
        "image IMAGE",
        "width:INT height:INT batch_size:INT",
    ),
    (
        "FrameInterpolationModelLoader",
        "model_name COMBO",
        "INTERP_MODEL:INTERP_MODEL",
    ),
    (
        "FrameInterpolate",
        "interp_model INTERP_MODEL; images IMAGE; multiplier INT 2",
        "IMAGE:IMAGE",
    ),
    (
        "InvertMask",
        "mask MASK",
        "MASK:MASK",
    ),
    (
        "RepeatImageBatch",
        "image IMAGE; amount INT 1",
        "IMAGE:IMAGE",
    ),
    (
        "VAEDecode",
        "samples LATENT; vae VAE",
        "IMAGE:IMAGE",
    ),
)
