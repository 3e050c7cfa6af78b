"""The node for fewer full steps."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.runtime.step_parts import StepParts
from ..unet_motion.sampling.step_cache import PRESETS, StepCache
from .host.checks import check_choice, require_motion_model
from .host.step.step_cache import set_step_cache
from .schema import make_input, make_schema, model_input, model_output

OFF, CUSTOM = "off", "custom"
CHOICES = [*PRESETS, CUSTOM, OFF]
KEEPS = ["line", "last"]
"""How what is kept goes on: the orders 1 and 0."""
CUSTOM_TIP = "Only read with the preset custom."


def _share(name: str, default: float, what: str):
    tooltip = f"{what} {CUSTOM_TIP}"
    return make_input(io.Float, name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _custom_inputs() -> list:
    return [
        make_input(
            io.Int, "interval", default=3, min=1, max=100,
            tooltip="Steps from one full one to the next; between them the last layers alone are computed. 1: all are "
            f"full. 2 to 4 is usual. {CUSTOM_TIP}",
        ),
        make_input(
            io.Int, "layers", default=1, min=0, max=16,
            tooltip="Of the last up block, from its end, that each step computes. 1 is the fastest; 0 is the whole "
            f"block. {CUSTOM_TIP}",
        ),
        make_input(
            io.Int, "guidance_interval", default=1, min=1, max=100,
            tooltip="Steps from one with both prompts to the next; between them what guidance adds is kept and the "
            f"negative prompt is left out. 1: both in each step. {CUSTOM_TIP}",
        ),
        _share("guidance_start", 0.0, "Share of the steps from which there is guidance; before it cfg is 1."),
        _share("guidance_end", 1.0, "Share of the steps up to which there is guidance; behind it cfg is 1."),
        _share("first", 0.15, "Share of the steps at the beginning that are all full."),
        _share("last", 0.1, "Share of the steps at the end that are all full."),
        make_input(
            io.Combo, "keeps", options=KEEPS, default=KEEPS[0],
            tooltip="line: goes on in a straight line from the last two full steps, nearer and twice the memory. last: "
            f"as the last full step was. {CUSTOM_TIP}",
        ),
        make_input(
            io.Float, "memory", default=4.0, min=0.0, max=1024.0, step=0.1,
            tooltip="GiB that may be held until the run is over; what is beyond it is computed in each step. "
            f"{CUSTOM_TIP}",
        ),
    ]  # fmt: skip


class StepCacheNode(io.ComfyNode):
    """Fewer full steps."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_StepCache",
            category="sampling",
            display_name="Step Cache (motion)",
            description="Fewer full steps: what changes little from step to step is computed in some of them only.",
            search_aliases=["deepcache", "teacache", "fastercache", "cfg cache", "guidance interval", "speed"],
            inputs=[
                model_input("A motion UNet of this pack."),
                make_input(
                    io.Combo, "preset", options=CHOICES, default="balanced",
                    tooltip="careful, balanced, fast: from hardly another clip to the fastest; docs/step-cache.md of "
                    "the pack has what they give. custom reads the inputs below. off takes away what an earlier node "
                    "set. The log says after each run what was left out.",
                ),
                *_custom_inputs(),
            ],
            outputs=[model_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, preset, interval, layers, guidance_interval, guidance_start, guidance_end, first, last, keeps,
        memory,
    ) -> io.NodeOutput:  # fmt: skip
        view = require_motion_model(model)
        check_choice("preset", preset, CHOICES)
        check_choice("keeps", keeps, KEEPS)
        if preset == OFF:
            return io.NodeOutput(set_step_cache(model, None))
        cache = PRESETS.get(preset)
        if cache is None:
            order = 1 - KEEPS.index(keeps)
            cache = StepCache(
                interval, layers, guidance_interval, guidance_start, guidance_end, first, last, order, memory
            )
        StepParts(view.core, cache.layers or None)  # refuses layers that this model does not have
        return io.NodeOutput(set_step_cache(model, cache))
