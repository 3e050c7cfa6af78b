"""Pipelines of published models: a Stable Diffusion 1.5 checkpoint, or a folder of diffusers.

Their text encoder is transformers', their autoencoder diffusers' (extra ``diffusers``).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files.errors import KeyMismatchError, WrongKindError, name_some
from ..files.reading import TensorSource, open_tensors

TOKENIZER = "openai/clip-vit-large-patch14"
"""The tokenizer of all Stable Diffusion 1 models, by its name on the hub; a checkpoint does not hold it."""

VAE, TEXT = "first_stage_model.", "cond_stage_model.transformer."


def load_tokenizer(name: Any) -> Any:
    """transformers' CLIP tokenizer of a folder or a name on the hub; a tokenizer is returned as it is."""
    if not isinstance(name, (str, Path)):
        return name
    return _package("transformers").CLIPTokenizer.from_pretrained(str(name))


def parts_of_checkpoint(path: str | Path, dtype: torch.dtype | None, device: Any) -> tuple[Any, Any]:
    """The text encoder and the autoencoder that a Stable Diffusion 1.5 checkpoint holds.

    Raises:
        OSError, FileFormatError: no such file, a damaged one, or a model of another kind.
        ImportError: without the extra ``diffusers``.
    """
    source = open_tensors(path)
    if any(key.startswith("conditioner.embedders.") for key in source.infos):
        raise WrongKindError(f"{path}: is a checkpoint with two text encoders (SDXL), expected Stable Diffusion 1.5.")
    for part, prefix in (("a text encoder", TEXT), ("an autoencoder", VAE)):
        if not any(key.startswith(prefix) for key in source.infos):
            raise KeyMismatchError(f"{path}: holds no tensors {prefix}*, expected {part} of Stable Diffusion 1.5.")
    built = _text_encoder(source, dtype), _autoencoder(source, dtype)
    return built[0].to(device).eval(), built[1].to(device).eval()


def parts_of_folder(folder: str | Path, dtype: torch.dtype | None, device: Any) -> tuple[Any, Any, Any]:
    """The text encoder, the autoencoder and the tokenizer in a folder that a pipeline of diffusers was saved in."""
    folder = Path(folder)
    for name in ("text_encoder", "vae", "tokenizer"):
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder}: has no folder {name}, expected that of a whole pipeline of diffusers.")
    text = _package("transformers").CLIPTextModel.from_pretrained(str(folder / "text_encoder"), torch_dtype=dtype)
    vae = _package("diffusers").AutoencoderKL.from_pretrained(str(folder / "vae"), torch_dtype=dtype)
    return text.to(device).eval(), vae.to(device).eval(), load_tokenizer(folder / "tokenizer")


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"pipelines of published models need {name} ({error}): pip install 'unet-motion[diffusers]'"
        ) from error


def _read(source: TensorSource, prefix: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): source.read(key, dtype) for key in source.infos if key.startswith(prefix)}


def _text_encoder(source: TensorSource, dtype: torch.dtype | None) -> nn.Module:
    state = _read(source, TEXT, dtype)
    state.pop("text_model.embeddings.position_ids", None)
    words, positions = (state[f"text_model.embeddings.{name}_embedding.weight"] for name in ("token", "position"))
    width = words.shape[1]
    transformers = _package("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, max_position_embeddings=len(positions),
        intermediate_size=len(state["text_model.encoder.layers.0.mlp.fc1.weight"]), num_attention_heads=width // 64,
        num_hidden_layers=_count(state, "text_model.encoder.layers."), projection_dim=width, hidden_act="quick_gelu",
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.CLIPTextModel(config)
    names = model.state_dict().keys()
    if not any(name.startswith("text_model.") for name in names):  # as newer transformers name them
        state = {name.removeprefix("text_model."): value for name, value in state.items()}
    return _filled(model, state, source)


def _autoencoder(source: TensorSource, dtype: torch.dtype | None) -> nn.Module:
    single_file = _package("diffusers.loaders.single_file_utils")
    state = _read(source, VAE, dtype)
    levels = _count(state, "encoder.down.")
    widths = tuple(len(state[f"encoder.down.{i}.block.0.conv2.weight"]) for i in range(levels))
    config = {
        "block_out_channels": widths,
        "layers_per_block": _count(state, "encoder.down.0.block."),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.device("meta"):
        model = _package("diffusers").AutoencoderKL(**config)
    prefixed = {f"{VAE}{name}": value for name, value in state.items()}
    return _filled(model, single_file.convert_ldm_vae_checkpoint(prefixed, model.config), source)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _filled(model: nn.Module, state: Mapping[str, Tensor], source: TensorSource) -> nn.Module:
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    if missing:
        what = f"{len(missing)} tensors of its {type(model).__name__}"
        raise KeyMismatchError(f"{source.path}: lacks {what}: {name_some(missing)}.")
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # whole numbers that no file holds
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(buffer.shape), persistent=False)
    return model
