"""Nodes that change how a motion UNet computes. Their settings travel with the copy of the MODEL that they return."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion import FreeU as FreeUFactors
from ..unet_motion.bundled.parts import UNET_CONFIG
from ..unet_motion.config.unet import UNetMotionConfig
from ..unet_motion.ops.attention.processors import PROCESSORS, available_processors
from ..unet_motion.values import quoted
from .host.checks import check_choice, require_motion_model
from .host.curves import ACCEPTED, read_curves
from .host.step.settings import with_settings
from .host.step.varying import Varying
from .schema import make_input, make_schema, model_input, model_output

AUTO, CUSTOM = "auto", "custom"
PRESETS = {
    "bundled": {"b1": 1.05, "b2": 1.1, "s1": 0.95, "s2": 0.9},
    "sd1.4": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "sd1.5": {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2},
    "sd2.1": {"b1": 1.4, "b2": 1.6, "s1": 0.9, "s2": 0.2},
    "sdxl": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
}
PRESET_OF_TEXT_WIDTH = {UNET_CONFIG["cross_attention_dim"]: "bundled", 768: "sd1.5", 1024: "sd2.1", 2048: "sdxl"}
"""Width of the text that a UNet attends to -> the preset for it. SD1.4 is SD1.5 with other values."""
PROCESSOR_NAMES = ["auto", "sdpa", "flash", "mem_efficient", "math", "sliced", "xformers", "sage", "triton"]
PROCESSOR_TIP = (
    "sdpa: torch's choice of kernel. flash, mem_efficient: that kernel only (NVIDIA; flash also on the CPU). math: "
    "float32 reference, slow and memory-hungry. sliced: the same in small parts, least memory, slowest. xformers, "
    "sage: where installed; sage is 8-bit and not exact. triton: this pack's kernel for up to 64 frames (NVIDIA), else "
    "as sdpa."
)
CHUNK_DIMS = ["frames", "pixels"]
RANGE_TIP = "Share of the sampling, 0 is the first step and 1 the last."


def _factor(name: str, default: float, what: str) -> object:
    return make_input(
        io.Float, name, default=default, min=0.0, max=10.0, step=0.01,
        tooltip=f"Factor for {what}; 1 changes nothing, 0.2 to 1.6 is usual. Only read with the preset custom. Costs "
        "nothing.",
    )  # fmt: skip


def _preset_for(config: UNetMotionConfig) -> str:
    """The preset of a model that its UNet tells; ValueError where none is for it."""
    width = config.last("cross_attention_dim")
    if width not in PRESET_OF_TEXT_WIDTH:
        raise ValueError(
            f"`preset` is {AUTO!r}, but no preset is for a UNet with text of width {width}: expected {CUSTOM!r} with "
            "numbers of your own, or a preset by name."
        )
    return PRESET_OF_TEXT_WIDTH[width]


class FreeU(io.ComfyNode):
    """FreeU on a motion UNet."""

    @classmethod
    def define_schema(cls):
        percent = {"min": 0.0, "max": 1.0, "step": 0.001}
        return make_schema(
            node_id="UNetMotion_FreeU",
            category="sampling",
            display_name="FreeU (motion)",
            description="Re-weights features of the two lowest up blocks: clearer shapes for almost no time.",
            search_aliases=["freeu"],
            inputs=[
                model_input("A motion UNet of this pack."),
                make_input(
                    io.Boolean, "enabled", default=True,
                    tooltip="Off takes away a FreeU that an earlier node set. On costs next to no time.",
                ),
                make_input(
                    io.Combo, "preset", options=[AUTO, CUSTOM, *PRESETS], default=AUTO,
                    tooltip="auto follows the loaded model. custom reads b1, b2, s1 and s2 below; the others ignore "
                    "them and use the values that FreeU's authors give for that model, bundled gentle ones of this "
                    "pack. Costs nothing.",
                ),
                make_input(
                    io.Combo, "version", options=["v1", "v2"], default="v1",
                    tooltip="v1: one factor for all pixels, as in diffusers. v2: the factor follows the picture's "
                    "structure, gentler on flat areas. Both cost the same.",
                ),
                _factor("b1", 1.5, "the backbone of the lowest up block"),
                _factor("b2", 1.6, "the backbone of the second up block"),
                _factor("s1", 0.9, "the skip of the lowest up block (low frequencies)"),
                _factor("s2", 0.2, "the skip of the second up block (low frequencies)"),
                make_input(io.Float, "start_percent", default=0.0, **percent, tooltip=f"From here on. {RANGE_TIP}"),
                make_input(io.Float, "end_percent", default=1.0, **percent, tooltip=f"Up to here. {RANGE_TIP}"),
                make_input(
                    io.MultiType, "curve", types=ACCEPTED, optional=True,
                    tooltip="On and off over the steps: FreeU acts where this is 0.5 or more, within the part of the "
                    "sampling above. A curve over steps, core's CURVE, or a list of numbers.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, enabled, preset, version, b1, b2, s1, s2, start_percent, end_percent, curve=None
    ) -> io.NodeOutput:  # fmt: skip
        unet = require_motion_model(model)
        if not enabled:
            return io.NodeOutput(with_settings(model, freeu=None))
        check_choice("preset", preset, [AUTO, CUSTOM, *PRESETS])
        preset = _preset_for(unet.core.config) if preset == AUTO else preset
        factors = PRESETS.get(preset, {"b1": b1, "b2": b2, "s1": s1, "s2": s2})
        FreeUFactors(**factors, version=version)
        when = {"start_percent": start_percent, "end_percent": end_percent}
        if curve is not None:
            when["curve"] = Varying.of(1.0, read_curves("curve", curve, "steps"))
            if when["curve"].frames:
                raise ValueError("`curve` goes over the frames, expected one over the steps: FreeU is for all frames.")
        return io.NodeOutput(with_settings(model, freeu={**factors, "version": version, **when}))


class AttentionProcessor(io.ComfyNode):
    """How attention is computed."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_AttentionProcessor",
            category="sampling",
            display_name="Attention Processor (motion)",
            description="How attention is computed over pixels and over frames: speed and memory, not the result.",
            search_aliases=["sdpa", "flash attention", "xformers", "sliced attention"],
            inputs=[
                model_input("A motion UNet of this pack."),
                make_input(
                    io.Combo, "spatial", options=PROCESSOR_NAMES, default="auto",
                    tooltip="Attention over the pixels and the text. auto: ComfyUI's own (its start options "
                    f"decide). {PROCESSOR_TIP} A patch of another node that overrides attention wins over this "
                    "choice.",
                ),
                make_input(
                    io.Combo, "temporal", options=PROCESSOR_NAMES, default="auto",
                    tooltip="Attention over the frames, 2 to 32 of them per pixel. auto: the fastest exact one. "
                    f"{PROCESSOR_TIP}",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, spatial, temporal) -> io.NodeOutput:
        require_motion_model(model)
        available = available_processors(model.load_device)
        for name, value in (("spatial", spatial), ("temporal", temporal)):
            if value not in available:
                why = "is not installed" if value not in PROCESSORS else f"cannot run on {model.load_device}"
                raise ValueError(f"`{name}` is {quoted(value)}, which {why}; here are {', '.join(available)}.")
        return io.NodeOutput(with_settings(model, attention={"spatial": spatial, "temporal": temporal}))


class ForwardChunking(io.ComfyNode):
    """Feed-forward layers in parts."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ForwardChunking",
            category="sampling",
            display_name="Forward Chunking (motion)",
            description="Computes feed-forward layers in parts: less memory, a little slower, the same result.",
            search_aliases=["enable_forward_chunking", "low memory"],
            inputs=[
                model_input("A motion UNet of this pack."),
                make_input(
                    io.Boolean, "enabled", default=True, tooltip="Off takes away the chunking that an earlier node set."
                ),
                make_input(
                    io.Int, "chunk_size", default=1, min=1, max=65536,
                    tooltip="Frames (or pixels) at a time. 1 needs the least memory and is the slowest; as many as "
                    "there are changes nothing.",
                ),
                make_input(
                    io.Combo, "dim", options=CHUNK_DIMS, default=CHUNK_DIMS[0],
                    tooltip="What is split in the spatial layers; the layers over time split the other one. frames: "
                    "2 to 64 parts. pixels: up to 4096 parts at 512x512, so use a chunk size of 256 or more.",
                ),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, enabled, chunk_size, dim) -> io.NodeOutput:
        require_motion_model(model)
        check_choice("dim", dim, CHUNK_DIMS)
        chunking = {"size": chunk_size, "dim": CHUNK_DIMS.index(dim)} if enabled else None
        return io.NodeOutput(with_settings(model, chunking=chunking))
