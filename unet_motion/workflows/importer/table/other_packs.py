"""Nodes of other packs that AnimateDiff's workflows use, where they are missing: core's and this pack's do the same."""

from __future__ import annotations

from typing import Any

from .rows import BatchOf, Give, Only, Row, of, row
from .targets import parse_inputs

VIDEO, PROMPTS, CONTROL, FRAMES = (
    "ComfyUI-VideoHelperSuite", "ComfyUI_FizzNodes", "ComfyUI-Advanced-ControlNet", "ComfyUI-Frame-Interpolation",
)  # fmt: skip
PREVIEW = 'preview STRING ""; more STRING ""'  # what old pages showed of the file, and how it is written
_FORMATS = {
    "image/gif": "gif", "image/webp": "webp", "video/h264-mp4": "mp4", "video/h265-mp4": "mp4", "video/av1-webm": "mp4",
    "video/webm": "mp4", "video/nvenc_h264-mp4": "mp4", "video/nvenc_hevc-mp4": "mp4", "video/ProRes": "mp4",
}  # fmt: skip
_LOOP = {
    "loop_count": Only((0,), "the file loops for ever"),
    "pingpong": Only((False,), "the frames run forwards only"),
}
_LOAD = {
    "force_rate": Only((0,), "the video keeps its own frames a second"),
    "select_every_nth": Only((1,), "every frame is taken"),
    "force_size": Only(("Disabled",), "the frames keep their size"),
    "meta_batch": Only((), "the whole video is loaded at once"),
    "vae": Only((), "frames come as pictures"),
}


def _video(kind: str) -> Row:
    """Frames of a video file."""
    return row(
        kind,
        'video COMBO; force_rate FLOAT 0; force_size COMBO "Disabled"; custom_width INT 0; custom_height INT 0;'
        "frame_load_cap INT 0; skip_first_frames INT 0; select_every_nth INT 1; meta_batch VHS_BatchManager; vae VAE;"
        'format COMBO "AnimateDiff"',
        "IMAGE INT AUDIO VHS_VIDEOINFO",
        Give("video", {"file": of("video")}),
        Give("frames", {}),
        Give("part", {"batch_index": of("skip_first_frames"), "length": of("frame_load_cap", {0: 4096})}),
        Give("count", {}),
        only=_LOAD,
        ignored=("custom_width", "custom_height", "format"),
        orders=("video force_rate force_size frame_load_cap skip_first_frames select_every_nth",),
        emits={0: (("part", 0), ("frames", 0)), 1: ("count", 2), 2: ("frames", 1)},
        home="frames",
        pack=VIDEO,
    )


def _prompts(kind: str, inputs: str, outputs: str, frames: Any, **rest: Any) -> Row:
    text = {"clip": of("clip"), "text": of("text"), "before": of("pre_text"), "after": of("app_text")}
    numbers = {f"pw_{letter}": Only((0,), "expressions in prompts are not computed") for letter in "abcd"}
    return row(
        kind,
        f'{inputs}pre_text STRING ""; app_text STRING ""; start_frame INT 0; end_frame INT 0;'
        "pw_a FLOAT 0.0; pw_b FLOAT 0.0; pw_c FLOAT 0.0; pw_d FLOAT 0.0",
        outputs,
        Give("prompts", {**text, "frames": frames}),
        only={**numbers, "start_frame": Only((0,), "the first frame is number 0")},
        ignored=("print_output", "end_frame") if "print_output" in inputs else ("end_frame",),
        home="prompts",
        pack=PROMPTS,
        **rest,
    )


def _control(kind: str, more: str, outputs: str, **rest: Any) -> Row:
    names = ("positive", "negative", "control_net", "image", "strength", "start_percent", "end_percent")
    return row(
        kind,
        "positive CONDITIONING; negative CONDITIONING; control_net CONTROL_NET; image IMAGE; strength FLOAT 1.0;"
        f"start_percent FLOAT 0.0; end_percent FLOAT 1.0; mask_optional MASK; timestep_kf TIMESTEP_KEYFRAME;"
        f"latent_kf_override LATENT_KEYFRAME; weights_override CONTROL_NET_WEIGHTS; {more}vae_optional VAE",
        outputs,
        Give("control", {**{name: of(name) for name in names}, "vae": of("vae_optional")}),
        only={
            "mask_optional": Only((), "it acts on the whole picture"),
            "timestep_kf": Only((), "its strength is the same in all steps and layers"),
            "latent_kf_override": Only((), "its strength is the same for all frames"),
            "weights_override": Only((), "its strength is the same in all layers"),
        },
        home="control",
        pack=CONTROL,
        **rest,
    )


def _interpolation(kind: str, more: str) -> Row:
    return row(
        kind,
        f"ckpt_name COMBO; frames IMAGE; clear_cache_after_n_frames INT 10; multiplier INT 2; {more}"
        "optional_interpolation_states INTERPOLATION_STATES",
        "IMAGE",
        Give("interpolator", {"model_name": of("ckpt_name")}),
        Give("interpolate", {"images": of("frames"), "multiplier": of("multiplier")}),
        only={"optional_interpolation_states": Only((), "every gap between frames is filled")},
        ignored=("clear_cache_after_n_frames", *parse_inputs(more)),
        emits={0: ("interpolate", 0)},
        home="interpolate",
        pack=FRAMES,
        note="choose a file in models/frame_interpolation",
    )


ROWS: tuple[Row, ...] = (
    _video("VHS_LoadVideo"),
    row(
        "VHS_VideoCombine",
        'images IMAGE; frame_rate FLOAT 8; loop_count INT 0; filename_prefix STRING "AnimateDiff";'
        'format COMBO "image/gif"; pingpong BOOLEAN false; save_output BOOLEAN true; audio AUDIO;'
        f"meta_batch VHS_BatchManager; vae VAE; {PREVIEW}",
        "VHS_FILENAMES",
        Give(
            "clip",
            {
                "images": of("images"),
                "fps": of("frame_rate"),
                "filename_prefix": of("filename_prefix"),
                "format": of("format", _FORMATS),
            },
        ),
        only={
            **_LOOP,
            "audio": Only((), "the file has no sound"),
            "meta_batch": Only((), "all frames are saved at once"),
            "vae": Only((), "pictures are saved"),
        },
        ignored=("save_output", "preview", "more"),
        emits={},
        home="clip",
        pack=VIDEO,
    ),
    _prompts(
        "BatchPromptSchedule",
        'text STRING ""; clip CLIP; max_frames INT 120; print_output BOOLEAN false; ',
        "CONDITIONING CONDITIONING",
        of("max_frames"),
        emits={0: ("prompts", 0), 1: ("prompts", 1)},
    ),
    _prompts(
        "BatchPromptScheduleLatentInput",
        'text STRING ""; clip CLIP; num_latents LATENT; print_output BOOLEAN false; ',
        "CONDITIONING CONDITIONING LATENT",
        BatchOf("num_latents", 16),
        emits={0: ("prompts", 0), 1: ("prompts", 1), 2: "num_latents"},
    ),
    row(
        "ControlNetLoaderAdvanced",
        "control_net_name COMBO; timestep_keyframe TIMESTEP_KEYFRAME; tk_optional TIMESTEP_KEYFRAME",
        "CONTROL_NET",
        Give("control_loader", {"control_net_name": of("control_net_name")}),
        only={
            "tk_optional": Only((), "its strength is the same in all steps and layers"),
            "timestep_keyframe": Only((), "its strength is the same in all steps and layers"),
        },
        emits={0: ("control_loader", 0)},
        home="control_loader",
        pack=CONTROL,
    ),
    _control(
        "ACN_AdvancedControlNetApply",
        "model_optional MODEL; ",
        "CONDITIONING CONDITIONING MODEL",
        emits={0: ("control", 0), 1: ("control", 1), 2: "model_optional"},
    ),
    _control(
        "ACN_AdvancedControlNetApply_v2",
        "",
        "CONDITIONING CONDITIONING",
        emits={0: ("control", 0), 1: ("control", 1)},
    ),
    _interpolation(
        "RIFE VFI", "fast_mode BOOLEAN true; ensemble BOOLEAN true; scale_factor FLOAT 1.0; last_frame BOOLEAN false; "
    ),
    _interpolation("FILM VFI", "last_frame BOOLEAN false; "),
)
