"""Nodes that mix motion modules and scale them."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.formats.merging import merge_motion_modules, parse_blocks, scale_blocks
from .schema import MotionModuleType, make_input, make_schema

BLOCKS_TIP = "a line each, below a name such as up_blocks, down_blocks.0 or mid_block; the longest name counts"


def _module(name: str, use: str):
    return make_input(MotionModuleType, name, tooltip=f"{use} From Load Motion Module.")


def _weight(name: str, default: float, tooltip: str):
    return make_input(
        io.Float, name, default=default, min=-10.0, max=10.0, step=0.01, tooltip=f"{tooltip} Costs nothing per step."
    )


def _blocks(name: str, tooltip: str):
    return make_input(io.String, name, default="", multiline=True, tooltip=f"{tooltip} Costs nothing per step.")


class MergeMotionModules(io.ComfyNode):
    """The weighted sum of two motion modules."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_MergeMotionModules",
            category="motion",
            display_name="Merge Motion Modules",
            description="Mixes two motion modules of one kind, as a whole or with other weights for single blocks.",
            search_aliases=["motion model merge", "animatediff merge"],
            inputs=[
                _module("motion_module_1", "Gives the position table and the norm scopes, too."),
                _module("motion_module_2", "Of the same structure as the first."),
                _weight("weight_1", 0.5, "How much of the first; weights are not brought to a sum of 1."),
                _weight("weight_2", 0.5, "How much of the second."),
                _blocks("blocks", f"Other weights for blocks, {BLOCKS_TIP}: up_blocks.1=0.2,0.8"),
            ],
            outputs=[MotionModuleType.Output(display_name="motion_module", tooltip="For Apply Motion Module.")],
        )

    @classmethod
    def execute(cls, motion_module_1, motion_module_2, weight_1, weight_2, blocks) -> io.NodeOutput:
        modules, weights = (motion_module_1, motion_module_2), (weight_1, weight_2)
        return io.NodeOutput(merge_motion_modules(modules, weights, parse_blocks(blocks.splitlines())))


class ScaleMotionBlocks(io.ComfyNode):
    """Motion modules that act more or less, block by block."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_ScaleMotionBlocks",
            category="motion",
            display_name="Scale Motion Blocks",
            description="Multiplies what motion modules add to the picture's features, block by block.",
            search_aliases=["motion scale", "per block", "effect"],
            inputs=[
                _module("motion_module", "Stays as it is; a changed copy is given."),
                _weight("down", 1.0, "For the way down: 0 no motion, 1 as trained."),
                _weight("mid", 1.0, "For the mid block; only v2 and AnimateLCM have motion there."),
                _weight("up", 1.0, "For the way up."),
                _blocks("blocks", f"Other factors, {BLOCKS_TIP}: down_blocks.0=0.5"),
            ],
            outputs=[MotionModuleType.Output(display_name="motion_module", tooltip="For Apply Motion Module.")],
        )

    @classmethod
    def execute(cls, motion_module, down, mid, up, blocks) -> io.NodeOutput:
        given = {"down_blocks": down, "mid_block": mid, "up_blocks": up}
        there = {name.partition(".")[0] for name in motion_module.state_dict}
        factors = {name: factor for name, factor in given.items() if name in there}
        factors |= {name: numbers[0] for name, numbers in parse_blocks(blocks.splitlines()).items()}
        return io.NodeOutput(scale_blocks(motion_module, factors))
