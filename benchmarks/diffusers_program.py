"""A program that is written for diffusers, before and after one changed line: pictures, time and memory.

    python benchmarks/diffusers_program.py                 # small parts: seconds
    python benchmarks/diffusers_program.py --size full     # Stable Diffusion 1.5's sizes, random: minutes, 12 GB

The program draws a clip from text, one from a video, one with a ControlNet and one with a LoRA, saves the pipeline and
reads it again. The line that changes says where its two classes are from. Each run is a process of its own. A third one
draws the clip from text with this library's own pipeline, from the folder that the program saved. Needs the extra
`diffusers`; nothing is fetched: weights are random and the tokenizer is made on the spot.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).absolute().parents[1]
LINES = {
    "diffusers": "from diffusers import MotionAdapter, UNetMotionModel",
    "this project": "from unet_motion.diffusers import MotionAdapter, UNetMotionModel",
}
PROGRAM = '''
import torch
from diffusers import AnimateDiffControlNetPipeline, AnimateDiffPipeline, AnimateDiffVideoToVideoPipeline
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

adapter = MotionAdapter.from_pretrained(f"{folder}/motion_adapter", torch_dtype=torch.float32)
image_unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet2d", torch_dtype=torch.float32)
unet = UNetMotionModel.from_unet2d(image_unet, adapter)
del image_unet
vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32)
text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder", torch_dtype=torch.float32)
tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
                          timestep_spacing="trailing")
pipe = AnimateDiffPipeline(vae, text_encoder, tokenizer, unet, adapter, scheduler)
call = dict(prompt="a red star", negative_prompt="grey", num_inference_steps=steps, guidance_scale=3.0)
call.update(height=side, width=side, output_type="pt")


def generator():
    return torch.Generator().manual_seed(7)


with measured("text to clip"):
    keep(pipe(num_frames=frames, generator=generator(), **call).frames)
with measured("video to video"):
    video = AnimateDiffVideoToVideoPipeline.from_pipe(pipe)
    keep(video(video=hints, strength=1.0, generator=generator(), **call).frames)
with measured("ControlNet"):
    controlnet = ControlNetModel.from_pretrained(f"{folder}/controlnet", torch_dtype=torch.float32)
    control = AnimateDiffControlNetPipeline.from_pipe(pipe, controlnet=controlnet)
    keep(control(conditioning_frames=hints, num_frames=frames, generator=generator(), **call).frames)
    del control, controlnet
with measured("LoRA"):
    pipe.load_lora_weights(load_file(f"{folder}/lora.safetensors"), adapter_name="pan")
    pipe.set_adapters(["pan"], [0.8])
    keep(pipe(num_frames=frames, generator=generator(), **call).frames)
    pipe.unload_lora_weights()
with measured("saved and read"):
    pipe.save_pretrained(f"{folder}/saved-{number}")
    del pipe, video, unet, adapter
    pipe = AnimateDiffPipeline.from_pretrained(f"{folder}/saved-{number}", torch_dtype=torch.float32)
    keep(pipe(num_frames=frames, generator=generator(), **call).frames)
'''
SIZES = {
    "small": {"widths": (32, 64), "text": 64, "layers": 2, "words": 200, "side": 16, "frames": 3, "steps": 2},
    "full": {"widths": (320, 640, 1280, 1280), "text": 768, "layers": 12, "words": 49408, "side": 64, "frames": 4,
             "steps": 2},
}  # fmt: skip


def make_parts(folder: Path, size: dict) -> None:
    """Random parts as folders of diffusers, in float16."""
    from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    sys.path.insert(0, str(ROOT))
    from tools.diffusers_tests import write_tokenizer

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    widths, text, levels = size["widths"], size["text"], len(size["widths"])
    down = ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",)
    sizes = dict(block_out_channels=widths, cross_attention_dim=text, attention_head_dim=8)
    unet = UNet2DConditionModel(
        **sizes, down_block_types=down, up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1)
    )
    unet.save_pretrained(folder / "unet2d")
    ControlNetModel(**sizes, down_block_types=down, conditioning_embedding_out_channels=(16,) * levels).save_pretrained(
        folder / "controlnet"
    )
    MotionAdapter(block_out_channels=widths, use_motion_mid_block=False).save_pretrained(folder / "motion_adapter")
    vae_widths = (32, 64) if levels == 2 else (128, 256, 512, 512)
    AutoencoderKL(
        block_out_channels=vae_widths, down_block_types=("DownEncoderBlock2D",) * levels, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=2,
    ).save_pretrained(folder / "vae")  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=size["words"], hidden_size=text, intermediate_size=4 * text, num_hidden_layers=size["layers"],
        num_attention_heads=text // 64, projection_dim=text, bos_token_id=0, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer")
    lora = {}
    for name, weight in unet.state_dict().items():
        if name.endswith(("attn2.to_q.weight", "attn1.to_v.weight")):
            path = f"unet.{name.removesuffix('.weight')}"
            lora[f"{path}.lora_A.weight"] = torch.randn(4, weight.shape[1]) * 0.1
            lora[f"{path}.lora_B.weight"] = torch.randn(weight.shape[0], 4) * 0.1
    save_file(lora, folder / "lora.safetensors")


class Run:
    """What one process drew, in which time and memory."""

    def __init__(self) -> None:
        self.pictures: list[torch.Tensor] = []
        self.rows: list[tuple[str, float, float]] = []

    def measured(self, name: str):
        from contextlib import contextmanager

        @contextmanager
        def part():
            start = time.perf_counter()
            yield
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            self.rows.append((name, time.perf_counter() - start, peak))
            print(f"{name}: {self.rows[-1][1]:.1f} s, {peak:.2f} GiB at most so far", file=sys.stderr)

        return part()


def gradients(side: int, frames: int) -> list:
    """Pictures as hints and as a video."""
    from PIL import Image

    rows = torch.arange(side)
    return [
        Image.fromarray(((rows[:, None] * (i + 1) + 3 * rows[None]) % 256).to(torch.uint8).numpy()).convert("RGB")
        for i in range(frames)
    ]


def run(folder: Path, size: dict, which: str) -> None:
    """One process: the program with a line of :data:`LINES`, or the library's own pipeline."""
    kept = Run()
    if which == "library":
        sys.path.insert(0, str(ROOT))
        from unet_motion import MotionPipeline

        with kept.measured("text to clip"):
            pipe = MotionPipeline.from_pretrained(folder / "saved-0", dtype=torch.float32, device="cpu")
            pipe.unet.set_norm_scope(resnet="frame", motion="clip")
            draw = pipe.pictures
            pipe.pictures = lambda latents: kept.pictures.append(draw(latents)) or kept.pictures[-1]
            pipe(
                "a red star", "grey", num_frames=size["frames"], num_inference_steps=size["steps"], spacing="trailing",
                generator=torch.Generator().manual_seed(7), width=size["side"], height=size["side"], progress=False,
            )  # fmt: skip
    else:
        sys.path.insert(0, str(ROOT))
        names = {name: size[name] for name in ("side", "frames", "steps")}
        names |= {"folder": str(folder), "number": list(LINES).index(which), "measured": kept.measured}
        names["hints"] = gradients(size["side"], size["frames"])
        exec(LINES[which] + PROGRAM, names | {"keep": lambda pictures: kept.pictures.append(pictures[0])})  # noqa: S102
    torch.save(kept.pictures, folder / f"{which}.pt")
    (folder / f"{which}.json").write_text(json.dumps(kept.rows))


def report(folder: Path) -> int:
    """A table of all runs; 1 where pictures differ."""
    rows = {which: json.loads((folder / f"{which}.json").read_text()) for which in (*LINES, "library")}
    pictures = {which: torch.load(folder / f"{which}.pt") for which in rows}
    worst = 0.0
    print("| part | diffusers | this project | GiB at most | largest difference |\n|---|---|---|---|---|")
    for i, (name, seconds, peak) in enumerate(rows["diffusers"]):
        _, ours, memory = rows["this project"][i]
        apart = float((pictures["diffusers"][i] - pictures["this project"][i]).abs().max())
        worst = max(worst, apart)
        print(f"| {name} | {seconds:.1f} s | {ours:.1f} s | {peak:.2f}, {memory:.2f} | {apart:.1e} |")
    (_, ours, memory), *_ = rows["library"]
    apart = float((pictures["diffusers"][0] - pictures["library"][0]).abs().max())
    print(f"| MotionPipeline, with loading | | {ours:.1f} s | {memory:.2f} | {apart:.1e} |")
    return int(max(worst, apart) > 1e-5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "WHICH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = SIZES[args.size]
    if args.run:
        run(Path(args.run[0]), size, args.run[1])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make_parts(Path(folder), size)
        for which in (*LINES, "library"):
            command = [sys.executable, __file__, "--size", args.size, "--run", folder, which]
            subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        return report(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
