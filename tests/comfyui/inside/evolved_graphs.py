"""Graphs of AnimateDiff-Evolved, each with what stands between checkpoint and sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

V1, V2, V3 = "mm_sd_v15.safetensors", "mm_v2.safetensors", "v3_mm.safetensors"
LCM, PIA, I2V = "AnimateLCM_t2v.safetensors", "pia.safetensors", "AnimateLCM-I2V.safetensors"
LORAS = ("zoom.safetensors", "pan.safetensors")
SQRT, PLAIN = "sqrt_linear (AnimateDiff)", "linear (HotshotXL/default)"


@dataclass
class Graph:
    """A prompt under construction: what a case hands on to the sampler."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: list = field(default_factory=lambda: ["1", 0])
    sampler: dict[str, Any] = field(default_factory=dict)
    sampler_kind: str = "KSampler"

    def __post_init__(self):
        self.add("CheckpointLoaderSimple", ckpt_name="small.safetensors")
        texts = [self.add("CLIPTextEncode", clip=["1", 1], text=text) for text in ("a cat", "blurry")]
        latents = self.add("EmptyLatentImage", width=64, height=64, batch_size=8)
        given = {"positive": texts[0], "negative": texts[1], "latent_image": latents}
        self.sampler = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
                        "denoise": 1.0, **given}  # fmt: skip

    def add(self, kind: str, output: int = 0, **inputs: Any) -> list:
        """Add a node; returns its output."""
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": inputs}
        return [key, output]

    def frames(self, count: int) -> None:
        self.nodes["4"]["inputs"]["batch_size"] = count

    def gen1(self, name: str = V2, beta: str = PLAIN, **inputs: Any) -> None:
        """One node that loads and applies."""
        self.model = self.add(
            "ADE_AnimateDiffLoaderGen1", model=self.model, model_name=name, beta_schedule=beta, **inputs
        )

    def gen2(self, name: str = V2, beta: str = "autoselect", apply=None, load=None, **inputs: Any) -> None:
        """Load, apply, use. apply: inputs of the node that applies; load: of the one that loads."""
        loaded = self.add("ADE_LoadAnimateDiffModel", model_name=name, **(load or {}))
        given = self.add("ADE_ApplyAnimateDiffModelSimple", motion_model=loaded, **(apply or {}))
        self.use(given, beta, **inputs)

    def use(self, models: list, beta: str = "autoselect", **inputs: Any) -> None:
        self.model = self.add("ADE_UseEvolvedSampling", model=self.model, m_models=models, beta_schedule=beta, **inputs)

    def settings(self, **inputs: Any) -> list:
        given = {"batch_offset": 0, "noise_type": "default", "seed_gen": "comfy", "seed_offset": 0, **inputs}
        return self.add("ADE_AnimateDiffSamplingSettings", **given)

    def multival(self, value: float, **inputs: Any) -> list:
        return self.add("ADE_MultivalDynamic", float_val=value, **inputs)

    def context(self, kind: str, **inputs: Any) -> list:
        sizes = {"context_length": 16, "context_overlap": 4, "context_stride": 1}
        if kind in ("StandardStatic", "Batched"):
            del sizes["context_stride"]
        if kind == "Batched":
            del sizes["context_overlap"]
        return self.add(f"ADE_{kind}ContextOptions", **{**sizes, **inputs})

    def picture(self) -> list:
        return self.add("EmptyImage", width=64, height=64, batch_size=1, color=0xC08040)

    def mask(self, value: float) -> list:
        return self.add("SolidMask", value=value, width=64, height=64)

    def prompt(self) -> tuple[dict[str, Any], str]:
        """The graph and the key of its sampler."""
        key, _ = self.add(self.sampler_kind, model=self.model, **self.sampler)
        return self.nodes, key


CASES: dict[str, Callable[[Graph], None]] = {}
OF_V1: dict[str, Callable[[Graph], None]] = {}


def case(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    CASES[function.__name__] = function
    return function


def case_of_v1(function: Callable[[Graph], None]) -> Callable[[Graph], None]:
    """Norms over all frames, which AnimateDiff-Evolved takes in more layers than were trained with them."""
    OF_V1[function.__name__] = function
    return function


# Loaders


@case
def generation_1(g):
    g.gen1()


@case
def generation_2(g):
    g.gen2(V3)


@case
def generation_2_with_its_own_schedule(g):
    g.gen2(V2, "lcm >> sqrt_linear")
    g.sampler.update(sampler_name="lcm", scheduler="sgm_uniform")


@case
def legacy_loader_with_motion_scale(g):
    settings = g.add("ADE_AnimateDiffUniformContextOptions", context_length=8, context_stride=1, context_overlap=2,
                     context_schedule="uniform", closed_loop=True)  # fmt: skip
    g.model = g.add("ADE_AnimateDiffLoaderWithContext", model=g.model, model_name=V2, beta_schedule=SQRT,
                    motion_scale=1.2, apply_v2_models_properly=True, context_options=settings)  # fmt: skip
    g.frames(12)


@case
def legacy_loader_of_v3(g):
    """The switch for v2 is not read for v3."""
    g.model = g.add("ADE_AnimateDiffLoaderWithContext", model=g.model, model_name=V3, beta_schedule=SQRT,
                    motion_scale=1.0, apply_v2_models_properly=False)  # fmt: skip


@case_of_v1
def legacy_loader_with_the_switch_off(g):
    g.model = g.add("ADE_AnimateDiffLoaderWithContext", model=g.model, model_name=V2, beta_schedule=SQRT)


@case_of_v1
def module_of_v1(g):
    g.gen2(V1, PLAIN)


@case
def loader_of_version_1(g):
    made = g.add("AnimateDiffLoaderV1", model=g.model, latents=g.sampler["latent_image"], model_name=V3,
                 unlimited_area_hack=False, beta_schedule=SQRT)  # fmt: skip
    g.model, g.sampler["latent_image"] = made, [made[0], 1]


@case
def chain_of_loras(g):
    first = g.add("ADE_AnimateDiffLoRALoader", name=LORAS[0], strength=0.8)
    second = g.add("ADE_AnimateDiffLoRALoader", name=LORAS[1], strength=0.4, prev_motion_lora=first)
    g.gen1(motion_lora=second)


@case
def animate_lcm(g):
    g.gen2(LCM)
    g.sampler.update(sampler_name="lcm", scheduler="sgm_uniform", cfg=1.5)


@case
def checkpoint_with_noise_select(g):
    g.nodes["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "small.safetensors"}}
    g.gen1(beta="avg(sqrt_linear,linear)")


# Context windows


@case
def looped_windows(g):
    g.frames(20)
    looped = {"context_length": 8, "context_stride": 2, "closed_loop": True, "fuse_method": "flat"}
    g.gen1(context_options=g.context("LoopedUniform", **looped))


@case
def static_windows(g):
    g.frames(20)
    g.gen2(context_options=g.context("StandardStatic", context_length=8, fuse_method="relative"))


@case
def standard_windows_on_equal_length(g):
    g.frames(16)
    g.gen2(context_options=g.context("StandardUniform", fuse_method="overlap-linear", use_on_equal_length=True))


@case
def batched_windows(g):
    g.frames(10)
    g.gen2(context_options=g.context("Batched", context_length=4))


@case
def chain_of_windows(g):
    g.frames(20)
    late = g.context("StandardStatic", context_length=8, start_percent=0.5, fuse_method="pyramid")
    g.gen2(context_options=g.context("StandardUniform", context_length=12, prev_context=late, fuse_method="flat"))
    g.sampler["steps"] = 3


@case
def views_only(g):
    g.frames(20)
    views = g.add("ADE_StandardUniformViewOptions", view_length=8, view_stride=2, view_overlap=2, fuse_method="flat")
    late = g.context("StandardStatic", context_length=12, start_percent=0.5, fuse_method="pyramid")
    g.gen2(context_options=g.add("ADE_ViewsOnlyContextOptions", view_opts_req=views, prev_context=late))
    g.sampler["steps"] = 3


# Noise and sample settings


@case
def free_noise(g):
    g.frames(16)
    g.gen2(context_options=g.context("StandardUniform", context_length=8),
           sample_settings=g.settings(noise_type="FreeNoise"))  # fmt: skip


@case
def constant_noise(g):
    g.gen2(sample_settings=g.settings(noise_type="constant"))


@case
def repeated_noise(g):
    g.frames(14)
    g.gen2(context_options=g.context("LoopedUniform", context_length=8, closed_loop=False),
           sample_settings=g.settings(noise_type="repeated_context"))  # fmt: skip


@case
def empty_noise(g):
    g.gen2(sample_settings=g.settings(noise_type="empty"))
    g.sampler["latent_image"] = g.add("VAEEncode", pixels=g.add("EmptyImage", width=64, height=64, batch_size=8,
                                      color=0x4080C0), vae=["1", 2])  # fmt: skip


@case
def overridden_seed(g):
    g.gen2(sample_settings=g.settings(seed_override=77))


@case
def seed_of_each_frame(g):
    g.gen2(sample_settings=g.settings(seed_gen="auto1111"))


@case
def sigma_schedule(g):
    schedule = g.add("ADE_SigmaSchedule", beta_schedule="lcm avg(sqrt_linear,linear)")
    g.gen2(beta=PLAIN, sample_settings=g.settings(sigma_schedule=schedule))


@case
def custom_cfg(g):
    g.gen2(sample_settings=g.settings(custom_cfg=g.add("ADE_CustomCFGSimple", cfg=4.5)))


@case
def guidance_over_the_steps(g):
    guidance = g.add("ADE_CustomCFGKeyframeSimple", cfg=5.0, start_percent=0.0, guarantee_steps=1)
    guidance = g.add("ADE_CustomCFGKeyframeSimple", cfg=1.5, start_percent=0.5, guarantee_steps=1,
                     prev_custom_cfg=guidance)  # fmt: skip
    g.gen2(sample_settings=g.settings(custom_cfg=guidance))
    g.sampler["steps"] = 4


@case
def guidance_with_rescale_and_pag(g):
    extras = g.add("ADE_CFGExtrasRescaleCFGSimple", multiplier=0.6)
    guidance = g.add("ADE_CustomCFGSimple", cfg=4.0, cfg_extras=extras)
    g.gen2(sample_settings=g.settings(custom_cfg=guidance))


@case
def another_sampler_node(g):
    g.gen2()
    g.sampler_kind = "KSamplerAdvanced"
    del g.sampler["denoise"]
    g.sampler["noise_seed"] = g.sampler.pop("seed")
    g.sampler.update(add_noise="enable", start_at_step=0, end_at_step=2, return_with_leftover_noise="enable", steps=3)


# Values over frames, steps and pixels


@case
def scale_and_effect(g):
    g.gen2(apply={"scale_multival": g.multival(1.3), "effect_multival": g.multival(0.6)})


@case
def scale_over_a_mask(g):
    g.gen2(apply={"scale_multival": g.multival(1.4, mask_optional=g.mask(0.5))})


@case
def effect_between_two_numbers_of_a_mask(g):
    value = g.add("ADE_MultivalScaledMask", min_float_val=0.4, max_float_val=1.2, mask=g.mask(0.5), scaling="absolute")
    g.gen2(apply={"effect_multival": value})


@case
def scale_over_the_frames(g):
    floats = g.add("ADE_ValueScheduling", 1, values="0 = 0.6,\n7 = 1.4", print_schedule=False, max_length=8)
    g.gen2(apply={"scale_multival": g.add("ADE_MultivalDynamicFloats", floats=floats)})


@case
def range_of_steps(g):
    loaded = g.add("ADE_LoadAnimateDiffModel", model_name=V2)
    g.use(g.add("ADE_ApplyAnimateDiffModel", motion_model=loaded, start_percent=0.2, end_percent=0.8))
    g.sampler["steps"] = 4


@case
def keyframes(g):
    late = g.add("ADE_AnimateDiffKeyframe", start_percent=0.5, scale_multival=g.multival(0.5),
                 effect_multival=g.multival(0.8))  # fmt: skip
    both = g.add("ADE_AnimateDiffKeyframe", start_percent=0.0, scale_multival=g.multival(1.4), prev_ad_keyframes=late)
    g.gen2(apply={"ad_keyframes": both})
    g.sampler["steps"] = 4


@case
def parts_of_the_network(g):
    down = g.add("ADE_ADBlockCombo", effect=g.multival(0.4), scale=g.multival(1.5))
    up = g.add("ADE_ADBlockIndiv", scale_0=g.multival(0.7), scale_1=g.multival(0.7))
    g.gen2(apply={"per_block": g.add("ADE_PerBlockHighLevel", down=down, up=up), "scale_multival": g.multival(1.2)})


@case
def single_modules(g):
    one, other = g.add("ADE_ADBlockCombo", effect=g.multival(0.3)), g.add("ADE_ADBlockCombo", scale=g.multival(1.6))
    g.gen2(apply={"per_block": g.add("ADE_PerBlock_SD15_LowLevel", down_1__1=one, mid=other, up_3__2=one)})


# Settings of the motion model


@case
def sweetspot(g):
    adjust = g.add("ADE_AdjustPESweetspotStretch", sweetspot=16, new_sweetspot=18, print_adjustment=False)
    g.gen2(load={"ad_settings": g.add("ADE_AnimateDiffSettings", pe_adjust=adjust)})


@case
def stretched_positions(g):
    adjust = g.add("ADE_AdjustPEFullStretch", pe_stretch=8, print_adjustment=False)
    g.gen1(ad_settings=g.add("ADE_AnimateDiffSettings", pe_adjust=adjust))


@case
def positions_by_hand(g):
    adjust = g.add("ADE_AdjustPEManual", cap_initial_pe_length=20, interpolate_pe_to_length=24, initial_pe_idx_offset=2,
                   final_pe_idx_offset=1, print_adjustment=False)  # fmt: skip
    g.gen1(ad_settings=g.add("ADE_AnimateDiffSettings", pe_adjust=adjust))


@case
def weights_of_all_layers(g):
    times = g.add("ADE_AdjustWeightAllMult", all_MULT=1.05, print_adjustment=False)
    g.gen1(ad_settings=g.add("ADE_AnimateDiffSettings", weight_adjust=times))


@case
def weights_plus_a_number(g):
    plus = g.add("ADE_AdjustWeightAllAdd", all_ADD=0.01, print_adjustment=False)
    g.gen1(ad_settings=g.add("ADE_AnimateDiffSettings", weight_adjust=plus))


# Pictures and prompts


@case_of_v1
def pia_with_a_preset(g):
    loaded = g.add("ADE_LoadAnimateDiffModel", model_name=PIA)
    preset = g.add("ADE_InputPIA_PaperPresets", preset="Animation (Large Motion)", batch_index=2, print_values=False)
    g.use(g.add("ADE_ApplyAnimateDiffModelWithPIA", motion_model=loaded, image=g.picture(), vae=["1", 2],
                start_percent=0.0, end_percent=1.0, pia_input=preset))  # fmt: skip


@case_of_v1
def pia_in_a_loop(g):
    g.frames(16)
    loaded = g.add("ADE_LoadAnimateDiffModel", model_name=PIA)
    preset = g.add("ADE_InputPIA_PaperPresets", preset="Loop (Large Motion)", batch_index=0, print_values=False,
                   mult_multival=g.multival(0.9))  # fmt: skip
    g.use(g.add("ADE_ApplyAnimateDiffModelWithPIA", motion_model=loaded, image=g.picture(), vae=["1", 2],
                start_percent=0.0, end_percent=1.0, pia_input=preset))  # fmt: skip


@case
def animate_lcm_with_a_picture(g):
    loaded = g.add("ADE_LoadAnimateLCMI2VModel", model_name=I2V)
    latent = g.add("ADE_UpscaleAndVAEEncode", image=g.picture(), vae=["1", 2], latent_size=g.sampler["latent_image"],
                   scale_method="lanczos", crop="center")  # fmt: skip
    g.use(g.add("ADE_ApplyAnimateLCMI2VModel", motion_model=loaded, ref_latent=latent, ref_drift=0.3,
                apply_ref_when_disabled=False, start_percent=0.0, end_percent=1.0), PLAIN)  # fmt: skip


@case
def prompts_over_the_frames(g):
    text = '0: = "a red star",\n3: = "a blue star",\n6 = "a cat",\n7 = "a dog"'
    g.sampler["positive"] = g.add("ADE_PromptScheduling", prompts=text, clip=["1", 1], print_schedule=False,
                                  max_length=8, tensor_interp="lerp")  # fmt: skip
    g.gen2()
