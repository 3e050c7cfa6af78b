"""Nodes that have no counterpart, and why: AnimateDiff-Evolved's, and Advanced-ControlNet's."""

from __future__ import annotations

from .control import CONTROL
from .rows import Row

REFERENCE = "what one window shows of another is not read here"
CAMERA = "CameraCtrl's encoder of camera poses is not there"
INJECTION = "layers of one motion model are not put into another"
BLOCKS = "a list of numbers is not spread over blocks"
LAYERS = "layers of noise start from other random numbers here"
SIGMAS = "noise schedules that are made by hand have no node here"

_WHY = {
    REFERENCE: {
        "ADE_ContextExtras_Set": "CONTEXT_OPTIONS",
        "ADE_ContextExtras_ContextRef": "CONTEXT_EXTRAS",
        "ADE_ContextExtras_ContextRef_ModeFirst": "CONTEXTREF_MODE",
        "ADE_ContextExtras_ContextRef_ModeSliding": "CONTEXTREF_MODE",
        "ADE_ContextExtras_ContextRef_ModeIndexes": "CONTEXTREF_MODE",
        "ADE_ContextExtras_ContextRef_TuneAttn": "CONTEXTREF_TUNE",
        "ADE_ContextExtras_ContextRef_TuneAttnAdain": "CONTEXTREF_TUNE",
        "ADE_ContextExtras_ContextRef_Keyframe": "CONTEXTREF_KEYFRAME",
        "ADE_ContextExtras_ContextRef_KeyframeInterpolation": "CONTEXTREF_KEYFRAME",
        "ADE_ContextExtras_ContextRef_KeyframeFromList": "CONTEXTREF_KEYFRAME",
        "ADE_ContextExtras_NaiveReuse": "CONTEXT_EXTRAS",
        "ADE_ContextExtras_NaiveReuse_Keyframe": "NAIVEREUSE_KEYFRAME",
        "ADE_ContextExtras_NaiveReuse_KeyframeInterpolation": "NAIVEREUSE_KEYFRAME",
        "ADE_ContextExtras_NaiveReuse_KeyframeFromList": "NAIVEREUSE_KEYFRAME",
    },
    CAMERA: {
        "ADE_ApplyAnimateDiffModelWithCameraCtrl": "M_MODELS",
        "ADE_LoadAnimateDiffModelWithCameraCtrl": "MOTION_MODEL_ADE",
        "ADE_CameraCtrlAnimateDiffKeyframe": "AD_KEYFRAMES",
        "ADE_LoadCameraPoses": "CAMERACTRL_POSES",
        "ADE_LoadCameraPosesFromPath": "CAMERACTRL_POSES",
        "ADE_CameraPoseBasic": "CAMERACTRL_POSES",
        "ADE_CameraPoseCombo": "CAMERACTRL_POSES",
        "ADE_CameraPoseAdvanced": "CAMERACTRL_POSES",
        "ADE_CameraManualPoseAppend": "CAMERACTRL_POSES",
        "ADE_ReplaceCameraParameters": "CAMERACTRL_POSES",
        "ADE_ReplaceOriginalPoseAspectRatio": "CAMERACTRL_POSES",
    },
    INJECTION: {
        "ADE_InjectI2VIntoAnimateDiffModel": "MOTION_MODEL_ADE",
        "ADE_InjectPIAIntoAnimateDiffModel": "MOTION_MODEL_ADE",
    },
    BLOCKS: {
        "ADE_PerBlock_SD15_FromFloats": "PER_BLOCK",
        "ADE_PerBlock_SDXL_FromFloats": "PER_BLOCK",
    },
    LAYERS: {
        "ADE_NoiseLayerAdd": "NOISE_LAYERS",
        "ADE_NoiseLayerAddWeighted": "NOISE_LAYERS",
        "ADE_NoiseLayerNormalizedSum": "NOISE_LAYERS",
        "ADE_NoiseLayerReplace": "NOISE_LAYERS",
    },
    SIGMAS: {
        "ADE_RawSigmaSchedule": "SIGMA_SCHEDULE",
        "ADE_SigmaScheduleWeightedAverage": "SIGMA_SCHEDULE",
        "ADE_SigmaScheduleWeightedAverageInterp": "SIGMA_SCHEDULE",
        "ADE_SigmaScheduleSplitAndCombine": "SIGMA_SCHEDULE",
        "ADE_SigmaScheduleToSigmas": "SIGMAS",
    },
    "noise that samplers add between steps is the sampler's own": {"ADE_AncestralOptions": "ANCESTRAL_OPTS"},
    "prompts take no numbers from elsewhere": {"ADE_ValuesReplace": "VALUES_REPLACE"},
    "one frame's conditioning is not taken out of a schedule": {"ADE_ConditionExtraction": "CONDITIONING"},
    "a mask is not made of a number over frames": {"ADE_MultivalConvertToMask": "MASK"},
    "guidance by a list of numbers has no node here": {"ADE_CustomCFGKeyframeFromList": "CUSTOM_CFG"},
    "its schedule has no name here": {"ADE_VisualizeContextOptionsSCustom": "IMAGE"},
    "PIA's keyframes have no counterpart": {"ADE_PIA_AnimateDiffKeyframe": "AD_KEYFRAMES"},
}
SPARSE = "SparseCtrl's encoder is not there"
WEIGHTS = "a ControlNet's strength is the same in all layers"
OTHER_NETS = "core's ControlNets have no node that does it"
_WHY_OF_CONTROL = {
    SPARSE: {
        "ACN_SparseCtrlLoaderAdvanced": "CONTROL_NET",
        "ACN_SparseCtrlMergedLoaderAdvanced": "CONTROL_NET",
        "ACN_SparseCtrlRGBPreprocessor": "IMAGE",
        "ACN_SparseCtrlIndexMethodNode": "SPARSE_METHOD",
        "ACN_SparseCtrlSpreadMethodNode": "SPARSE_METHOD",
        "ACN_SparseCtrlWeightExtras": "CN_WEIGHTS_EXTRAS",
    },
    WEIGHTS: dict.fromkeys(
        (
            "ACN_DefaultUniversalWeights", "ScaledSoftMaskedUniversalWeights", "ScaledSoftControlNetWeights",
            "SoftControlNetWeights", "CustomControlNetWeights", "ACN_ScaledSoftControlNetWeights",
            "ACN_SoftControlNetWeightsSD15", "ACN_CustomControlNetWeightsSD15", "SoftT2IAdapterWeights",
            "CustomT2IAdapterWeights", "ACN_SoftT2IAdapterWeights", "ACN_CustomT2IAdapterWeights",
        ),
        "CONTROL_NET_WEIGHTS TIMESTEP_KEYFRAME",
    ),
    "a list of strengths is not spread over the steps": {"ACN_TimestepKeyframeFromStrengthList": "TIMESTEP_KEYFRAME"},
    OTHER_NETS: {
        "ACN_ReferenceControlNet": "CONTROL_NET",
        "ACN_ReferenceControlNetFinetune": "CONTROL_NET",
        "ACN_ReferencePreprocessor": "IMAGE",
        "ACN_CtrLoRALoader": "CONTROL_NET",
        "ACN_ControlNet++LoaderAdvanced": "CONTROL_NET IMAGE",
        "ACN_ControlNet++LoaderSingle": "CONTROL_NET",
        "ACN_ControlNet++InputNode": "PLUS_INPUT",
    },
}  # fmt: skip
# What these give is no setting: other nodes read it.
_COMMON = ("SIGMAS", "CONDITIONING", "MASK", "IMAGE", "MOTION_MODEL_ADE", "CONTROL_NET")


def _row(kind: str, outputs: str, why: str, pack: str = "") -> Row:
    types = tuple(outputs.split())
    return Row(kind, {}, types, why=why, emits={} if types[0] in _COMMON else None, pack=pack)


ROWS: tuple[Row, ...] = (
    *(_row(kind, outputs, why) for why, kinds in _WHY.items() for kind, outputs in kinds.items()),
    *(_row(kind, outputs, why, CONTROL) for why, kinds in _WHY_OF_CONTROL.items() for kind, outputs in kinds.items()),
)
