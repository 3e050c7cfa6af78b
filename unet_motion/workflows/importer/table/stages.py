"""The nodes that conversions write, in the order in which the MODEL runs through them."""

from __future__ import annotations

from .rows import Stage

STAGES = {
    "checkpoint": Stage("CheckpointLoaderSimple"),
    "latents": Stage("EmptyLatentImage"),
    "clip": Stage("UNetMotion_SaveClip"),
    "module": Stage("UNetMotion_LoadMotionModule", feeds=("apply", "motion_module")),
    "schedule": Stage("UNetMotion_BetaSchedule", model="model", skip=True),
    "apply": Stage("UNetMotion_ApplyMotionModule", model="model"),
    "lora": Stage("UNetMotion_LoadMotionLoRA", model="model"),
    "amount": Stage("UNetMotion_MotionAmount", model="model", skip=True),
    "encode": Stage("VAEEncode", feeds=("pia", "first_frame"), makes=True),
    "pia": Stage("UNetMotion_PIA", model="model"),
    "i2v": Stage("UNetMotion_AnimateLCMI2V", model="model"),
    "windows": Stage("UNetMotion_ContextWindows", model="model"),
    "noise": Stage("UNetMotion_Noise", feeds=("use_noise", "noise"), makes=True),
    "use_noise": Stage("UNetMotion_UseNoise", model="model"),
    "free_init": Stage("UNetMotion_FreeInit", model="model"),
    "guidance": Stage("UNetMotion_Guidance", model="model"),
    "pag": Stage("PerturbedAttentionGuidance", model="model"),
    "rescale": Stage("RescaleCFG", model="model"),
}
"""Each stage's node. Those without `model` stand beside the chain."""

PER_MODULE = ("module", "apply", "lora", "amount", "encode", "pia", "i2v")
"""Stages of which each motion module has its own."""

SAMPLERS = {
    "KSampler": "cfg",
    "KSamplerAdvanced": "cfg",
    "SamplerCustom": "cfg",
    "CFGGuider": "cfg",
    "UNetMotion_Sampler": "cfg",
}
"""Nodes that guidance is set on: the inputs that say how much."""

RENAMED = {"MOTION_MODEL_ADE": "MOTION_MODULE"}
"""Types of links that are called otherwise here."""
