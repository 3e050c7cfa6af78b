"""Nodes of other packs that AnimateDiff's workflows use, where they are missing: core's and this pack's do the same."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from .control import CONTROL, LAYERS, WHOLE
from .rows import BatchOf, Give, Only, Row, made, of, row
from .targets import parse_inputs

VIDEO, PROMPTS, FRAMES = "ComfyUI-VideoHelperSuite", "ComfyUI_FizzNodes", "ComfyUI-Frame-Interpolation"
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
    "meta_batch": Only((), "the whole video is loaded at once"),
    "vae": Only((), "frames come as pictures"),
}
_SIZED = re.compile(r"(\d+|\?)x(\d+|\?)")
_CUSTOM = {"Custom": (1, 1), "Custom Width": (1, 0), "Custom Height": (0, 1), None: (1, 1)}


def _size(force_size: Any, width: Any, height: Any) -> tuple[int, int]:
    """Width and height that frames are scaled to; 0 keeps the sides' ratio, both keep the size.

    Versions without `force_size` have the numbers alone.
    """
    written = _SIZED.fullmatch(str(force_size))
    if written:
        return _side(written[1]), _side(written[2])
    used = _CUSTOM.get(force_size, (0, 0))
    return int(width or 0) * used[0], int(height or 0) * used[1]


def _side(word: str) -> int:
    return 0 if word == "?" else int(word)


_PART = {"batch_index": of("skip_first_frames"), "length": of("frame_load_cap", {0: 4096})}
_SIZE = ("force_size", "custom_width", "custom_height")


def _video(kind: str, video: str = "video COMBO", copied: bool = False) -> Row:
    """Frames of a video file. copied: its path does not lead into the input folder."""
    file = made(lambda path: PurePosixPath(str(path).replace("\\", "/")).name, "video") if copied else of("video")
    sides = {side: made(lambda *size, place=place: _size(*size)[place], *_SIZE)
             for place, side in enumerate(("width", "height"))}  # fmt: skip
    return row(
        kind,
        f"{video}; force_rate FLOAT 0; force_size COMBO; custom_width INT 0; custom_height INT 0;"
        "frame_load_cap INT 0; skip_first_frames INT 0; select_every_nth INT 1; meta_batch VHS_BatchManager; vae VAE;"
        'format COMBO "AnimateDiff"',
        "IMAGE INT AUDIO VHS_VIDEOINFO",
        Give("video", {"file": file}),
        Give("frames", {}),
        Give("part", _PART),
        Give("sized", sides),
        Give("count", {}),
        only=_LOAD,
        ignored=("format",),
        orders=(
            "video force_rate force_size frame_load_cap skip_first_frames select_every_nth",
            "video force_rate custom_width custom_height frame_load_cap skip_first_frames select_every_nth format",
            "video force_rate custom_width custom_height frame_load_cap skip_first_frames select_every_nth",
        ),
        emits={0: (("sized", 0), ("part", 0), ("frames", 0)), 1: ("count", 2), 2: ("frames", 1)},
        home="frames",
        pack=VIDEO,
        note="put the file into the input folder" if copied else None,
    )


def _prompts(
    kind: str, inputs: str, outputs: str, frames: Any, printed: bool = True, only: Any = None, **rest: Any
) -> Row:
    """Prompts over frames. printed: the node has a range of frames that are printed."""
    first = "text max_frames" if "max_frames" in inputs else "text"
    more = ("start_frame ", "") if printed else ("",)
    text = {"clip": of("clip"), "text": of("text"), "before": of("pre_text"), "after": of("app_text")}
    numbers = {f"pw_{letter}": Only((0,), "expressions in prompts are not computed") for letter in "abcd"}
    return row(
        kind,
        f'{inputs}pre_text STRING ""; app_text STRING "";{" start_frame INT 0; end_frame INT 0;" if printed else ""}'
        "pw_a FLOAT 0.0; pw_b FLOAT 0.0; pw_c FLOAT 0.0; pw_d FLOAT 0.0",
        outputs,
        Give("prompts", {**text, "frames": frames}),
        only={**numbers, **(only or {})},
        ignored=("print_output", *(name for name in ("start_frame", "end_frame") if printed)),
        orders=tuple(
            f"{first} {shown}pre_text app_text {start}pw_a pw_b pw_c pw_d"
            for shown in ("print_output ", "")
            for start in more
        ),
        home="prompts",
        pack=PROMPTS,
        **rest,
    )


_CONTROL = (
    "control_net CONTROL_NET; image IMAGE; strength FLOAT 1.0; start_percent FLOAT 0.0; end_percent FLOAT 1.0;"
    "mask_optional MASK; timestep_kf TIMESTEP_KEYFRAME; latent_kf_override LATENT_KEYFRAME;"
    "weights_override CONTROL_NET_WEIGHTS; "
)


def _control(kind: str, more: str, outputs: str, **rest: Any) -> Row:
    names = ("positive", "negative", "control_net", "image", "strength", "start_percent", "end_percent")
    return row(
        kind,
        f"positive CONDITIONING; negative CONDITIONING; {_CONTROL}{more}vae_optional VAE",
        outputs,
        Give("control", {**{name: of(name) for name in names}, "vae": of("vae_optional")}),
        only={
            "mask_optional": WHOLE,
            "weights_override": LAYERS,
        },
        home="control",
        pack=CONTROL,
        **rest,
    )


def _control_of_one(kind: str, more: str, **rest: Any) -> Row:
    """One prompt's ControlNet, which acts on the other one, too, where that has none: as core's node for one prompt."""
    return row(
        kind,
        f"conditioning CONDITIONING; {_CONTROL}{more}vae_optional VAE",
        "CONDITIONING MODEL",
        Give("control_single", {name: of(name) for name in ("conditioning", "control_net", "image", "strength")}),
        only={
            "start_percent": Only((0,), "it acts from the first step on"),
            "end_percent": Only((1,), "it acts up to the last step"),
            "mask_optional": WHOLE,
            "weights_override": LAYERS,
            "vae_optional": Only((), "the net gets the picture itself"),
        },
        home="control_single",
        pack=CONTROL,
        **rest,
    )


def _control_loader(kind: str, name: str, stage: str = "control_loader", more: str = "") -> Row:
    return row(
        kind,
        f"{more}{name} COMBO; tk_optional TIMESTEP_KEYFRAME",
        "CONTROL_NET",
        Give(stage, {"control_net_name": of(name), **({"model": of("model")} if more else {})}),
        formerly={"timestep_keyframe": "tk_optional", "_tk_opt": "tk_optional"},
        emits={0: (stage, 0)},
        home=stage,
        pack=CONTROL,
    )


CHOOSE = "choose a file in models/frame_interpolation"
OTHER_NET = f"{CHOOSE}, of RIFE or FILM: another network makes the frames between"


def _interpolation(kind: str, more: str, note: str = CHOOSE) -> Row:
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
        note=note,
    )


ROWS: tuple[Row, ...] = (
    _video("VHS_LoadVideo"),
    _video("VHS_LoadVideoPath", 'video STRING ""', copied=True),
    _video("VHS_LoadVideoFFmpeg"),
    _video("VHS_LoadVideoFFmpegPath", 'video STRING ""', copied=True),
    row(
        "VHS_GetImageCount",
        "images IMAGE",
        "INT",
        Give("counted", {"image": of("images")}),
        emits={0: ("counted", 2)},
        home="counted",
        pack=VIDEO,
    ),
    row(
        "VHS_DuplicateImages",
        "images IMAGE; multiply_by INT 1",
        "IMAGE INT",
        Give("repeated", {"image": of("images"), "amount": of("multiply_by")}),
        Give("count", {}),
        emits={0: ("repeated", 0), 1: ("count", 2)},
        home="repeated",
        pack=VIDEO,
    ),
    row(
        "VHS_VAEDecodeBatched",
        "samples LATENT; vae VAE; per_batch INT 16",
        "IMAGE",
        Give("decoded", {"samples": of("samples"), "vae": of("vae")}),
        ignored=("per_batch",),
        emits={0: ("decoded", 0)},
        home="decoded",
        pack=VIDEO,
    ),
    row(
        "VHS_VAEEncodeBatched",
        "pixels IMAGE; vae VAE; per_batch INT 16",
        "LATENT",
        Give("encode_resized", {"pixels": of("pixels"), "vae": of("vae")}),
        ignored=("per_batch",),
        emits={0: ("encode_resized", 0)},
        home="encode_resized",
        pack=VIDEO,
    ),
    row(
        "VHS_VideoCombine",
        'images IMAGE; frame_rate FLOAT 8; loop_count INT 0; filename_prefix STRING "AnimateDiff";'
        'format COMBO "image/gif"; pingpong BOOLEAN false; save_output BOOLEAN true; audio AUDIO;'
        "meta_batch VHS_BatchManager; vae VAE",
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
        ignored=("save_output",),
        more=True,
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
    _prompts(
        "PromptSchedule",
        'text STRING ""; clip CLIP; max_frames INT 120; current_frame INT 0!; print_output BOOLEAN false; ',
        "CONDITIONING CONDITIONING",
        of("max_frames"),
        printed=False,
        only={"current_frame": Only((), "each frame of the clip gets its own prompt")},
        emits={0: ("prompts", 0), 1: ("prompts", 1)},
    ),
    _control_loader("ControlNetLoaderAdvanced", "control_net_name"),
    _control_loader("ACN_ControlNetLoaderAdvanced", "cnet"),
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
    _control_loader("DiffControlNetLoaderAdvanced", "control_net_name", "control_loader_diff", "model MODEL; "),
    _control_loader("ACN_DiffControlNetLoaderAdvanced", "cnet", "control_loader_diff", "model MODEL; "),
    _control_of_one(
        "ACN_AdvancedControlNetApplySingle",
        "model_optional MODEL; ",
        emits={0: ("control_single", 0), 1: "model_optional"},
    ),
    _control_of_one("ACN_AdvancedControlNetApplySingle_v2", "", emits={0: ("control_single", 0)}),
    _interpolation(
        "RIFE VFI", "fast_mode BOOLEAN true; ensemble BOOLEAN true; scale_factor FLOAT 1.0; last_frame BOOLEAN false; "
    ),
    _interpolation("FILM VFI", "last_frame BOOLEAN false; "),
    _interpolation("IFUnet VFI", "scale_factor FLOAT 1.0; ensemble BOOLEAN true; ", OTHER_NET),
    _interpolation("IFRNet VFI", "scale_factor FLOAT 1.0; ", OTHER_NET),
    *(_interpolation(f"{name} VFI", "", OTHER_NET) for name in ("GMFSS Fortuna", "AMT", "CAIN", "M2M", "Sepconv")),
    *(
        _interpolation(f"{name} VFI", "duplicate_first_last_frames BOOLEAN false; ", OTHER_NET)
        for name in ("STMFNet", "FLAVR")
    ),
)
