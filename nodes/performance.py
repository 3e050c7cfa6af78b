"""The node that chooses how a motion UNet is run: kernels, CUDA graphs, compilation, chunking."""

from __future__ import annotations

from comfy_api.latest import io

from ..unet_motion.ops.mode import MODES, PROVEN
from .host.checks import check_choice, require_motion_model
from .host.step.performance import COMPILATIONS, is_compiled, plain_clone, report_of, set_compilation, why_not
from .host.step.settings import settings, with_settings
from .schema import make_input, make_schema, model_input, model_output

UNCHANGED = "unchanged"
KERNELS = [UNCHANGED, *MODES]
COMPILE = [UNCHANGED, "off", *COMPILATIONS]


def _performance_inputs() -> list:
    """What may be faster."""
    return [
        model_input("A motion UNet of this pack."),
        make_input(
            io.Combo, "kernels", options=KERNELS, default=UNCHANGED,
            tooltip="eager: PyTorch's operators. triton: this pack's kernels for norms, residual sums, GEGLU "
            "and FreeU, which move 3 to 10 times an activation where the operators move 5 to 16 times; on a GPU only. "
            "proven: each of these kernels, and the one for attention over frames where Attention Processor says auto, "
            "that has shown on this device that it is as exact as the operators and no slower; else the operators. "
            "unchanged: as before this node, else the environment's UNET_MOTION_KERNELS, else proven. Not used in "
            "compiled code.",
        ),
        make_input(
            io.Boolean, "cuda_graphs", default=False,
            tooltip="Record a step once and replay it: one launch in place of thousands, for small pictures "
            "and fast cards. Holds the memory of up to two steps until the model is unloaded. Off takes away "
            "what an earlier node set. Steps with ControlNets, with patches of other nodes or with weights "
            "that are moved during sampling run without, and the log says why. On a GPU only.",
        ),
        make_input(
            io.Combo, "compile", options=COMPILE, default=UNCHANGED,
            tooltip="inductor: torch.compile of the whole UNet when it first samples, which takes minutes "
            "for each new size. max-autotune: tries more kernels and takes longer still. off: takes away a "
            "compilation that an earlier node set.",
        ),
        make_input(
            io.Int, "chunk_size", default=0, min=0, max=65536,
            tooltip="Frames that a feed-forward layer computes at a time, as in Forward Chunking. 0: as before "
            "this node. Smaller needs less memory and is slower; on a CPU large layers are split already.",
        ),
    ]  # fmt: skip


class Performance(io.ComfyNode):
    """How a motion UNet is run; the result is the same within rounding."""

    @classmethod
    def define_schema(cls):
        return make_schema(
            node_id="UNetMotion_Performance",
            category="sampling",
            display_name="Performance (motion)",
            description="Kernels, CUDA graphs, compilation and chunking: speed and memory, not the result.",
            search_aliases=["torch.compile", "cuda graphs", "triton", "speed", "enable_forward_chunking"],
            inputs=_performance_inputs(),
            outputs=[
                model_output(),
                io.String.Output(
                    display_name="report",
                    tooltip="Which code each operation runs on this machine, and why; what was proven, in numbers.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, kernels, cuda_graphs, compile, chunk_size) -> io.NodeOutput:
        require_motion_model(model)
        _check(model, kernels, cuda_graphs, compile)
        changes = {}
        # A setting that says nothing new would compile a compiled model anew.
        if cuda_graphs or _chosen(model).get("cuda_graphs"):
            changes["cuda_graphs"] = cuda_graphs
        if kernels != UNCHANGED:
            changes["kernels"] = kernels
        if chunk_size:
            changes["chunking"] = {"size": chunk_size, "dim": 0}
        changed = with_settings(plain_clone(model) if compile in COMPILATIONS or cuda_graphs else model, **changes)
        if compile != UNCHANGED:
            set_compilation(changed, compile)
        return io.NodeOutput(changed, report_of(changed))


def _check(model, kernels: str, cuda_graphs: bool, compile: str) -> None:
    """Raise ValueError for choices that cannot run here."""
    check_choice("kernels", kernels, KERNELS)
    check_choice("compile", compile, COMPILE)
    _check_together(model, kernels, cuda_graphs, compile)
    reason = why_not(model.load_device, kernels, cuda_graphs)
    if reason:
        raise ValueError(reason)


def _check_together(model, kernels: str, cuda_graphs: bool, compile: str) -> None:
    """Raise ValueError for two choices of which one would do nothing, this node's or an earlier one's."""
    here, earlier = compile in COMPILATIONS, compile == UNCHANGED and is_compiled(model)
    if not here and not earlier:
        return
    before = _chosen(model).get("kernels") if kernels == UNCHANGED else None
    if cuda_graphs:
        other = "`cuda_graphs` is on"
    elif kernels in ("triton", PROVEN):
        other = f"`kernels` is {kernels!r}"
    elif here and before in ("triton", PROVEN):
        other = f"an earlier node set `kernels` to {before!r}"
    else:
        return
    compiled = f"`compile` is {compile!r}" if here else "An earlier node compiles this model"
    choose = "choose one" if here else "choose one, or set `compile` to off here"
    raise ValueError(f"{compiled} and {other}, which compiled code does not use: {choose}.")


def _chosen(model) -> dict:
    return settings(model.model_options["transformer_options"])
