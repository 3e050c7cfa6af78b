"""The nodes of the pack. Each is thin: a schema, a clone, one call into `host` or `unet_motion`."""

from comfy_api.latest import ComfyExtension, io

from .animatelcm import AnimateLCMPicture
from .clip_files import DecodeToFile, EncodeFromFile
from .context_windows import ContextWindowsNode, ShowContextWindows
from .host.files.paths import register_folders
from .host.page.routes import register_routes
from .host.page.workflows import register_replacements
from .image_injection import InjectImage
from .loading import ApplyMotionModule, LoadBundled, LoadMotionModule, LoadUNet
from .lora import LoadLoRA, LoadMotionLoRA, MotionLoRAHook
from .merging import MergeMotionModules, ScaleMotionBlocks
from .more_motion import AddMotionModule
from .noise import FreeInit, Noise, UseNoise
from .options import AttentionProcessor, ForwardChunking, FreeU
from .over_time import Guidance, MotionAmount, MotionCurve, PromptTravel
from .performance import Performance
from .pia import PIAFirstFrame
from .sampling import MotionSampler
from .saving import SaveClip
from .step_cache import StepCacheNode
from .strengths import ControlStrength, MaskStrength
from .timeline import TimelineNode
from .training import TrainMotionLoRA

NODES: list[type[io.ComfyNode]] = [
    LoadBundled,
    LoadUNet,
    LoadMotionModule,
    ApplyMotionModule,
    MergeMotionModules,
    ScaleMotionBlocks,
    LoadLoRA,
    FreeU,
    AttentionProcessor,
    ForwardChunking,
    PIAFirstFrame,
    MotionSampler,
    SaveClip,
    LoadMotionLoRA,
    AnimateLCMPicture,
    Performance,
    TrainMotionLoRA,
    Noise,
    UseNoise,
    FreeInit,
    DecodeToFile,
    EncodeFromFile,
    ContextWindowsNode,
    ShowContextWindows,
    MotionCurve,
    PromptTravel,
    MotionAmount,
    Guidance,
    TimelineNode,
    AddMotionModule,
    ControlStrength,
    MaskStrength,
    InjectImage,
    MotionLoRAHook,
    StepCacheNode,
]


class UNetMotionExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> UNetMotionExtension:
    register_folders()
    register_routes()
    await register_replacements()
    return UNetMotionExtension()
