"""The bundled model's parts, and the one file that holds them.

The file is safetensors with the prefixes `unet.`, `text_encoder.` and `vae.`; its metadata hold `unet_motion`, a JSON
object with the configurations, the vocabulary and how the model was made.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files.limits import parse_object
from ..model.unet_motion_model import UNetMotionModel
from ..values import quoted
from .autoencoder import Autoencoder
from .text import TextEncoder, Tokenizer

WEIGHTS = Path(__file__).with_name("model.safetensors")
METADATA_KEY = "unet_motion"
FORMAT = 1
PREFIXES = {"unet": "unet.", "text_encoder": "text_encoder.", "autoencoder": "vae."}
TEXT_WIDTH = 64
TIME_ID_WIDTH = 8
UNET_CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion"),
    "up_block_types": ("CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": TEXT_WIDTH,
    "num_attention_heads": 4,
    "motion_num_attention_heads": 4,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_ID_WIDTH,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + TIME_ID_WIDTH,
}


@dataclass
class BundledParts:
    """A text-to-video model: prompt -> tokenizer -> text_encoder -> unet (noise prediction) -> autoencoder -> frames.

    `info` holds facts for users: frames, size, schedule, prediction, latent_scale, defaults for sampling, provenance.
    """

    unet: UNetMotionModel
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    autoencoder: Autoencoder
    info: dict[str, Any] = field(default_factory=dict)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (N, T, C) and pooled text (N, P) of N prompts."""
        device = next(self.text_encoder.parameters()).device
        return self.text_encoder(self.tokenizer.encode_all(prompts).to(device))


def added_cond(pooled: Tensor, rows: int | None = None) -> dict[str, Tensor]:
    """`added_cond_kwargs` of the bundled UNet for pooled text (N, P), repeated to `rows` rows where given.

    The model's single time id is unused and always zero.
    """
    if rows is not None and rows != len(pooled):
        if rows % len(pooled):
            raise ValueError(f"rows is {rows}; expected a multiple of the {len(pooled)} rows of pooled text")
        pooled = pooled.repeat_interleave(rows // len(pooled), dim=0)
    return {"text_embeds": pooled, "time_ids": pooled.new_zeros(len(pooled), 1)}


def added_vector(pooled: Tensor) -> Tensor:
    """One vector (N, P + 8), the form that ComfyUI hands to a model: pooled text (N, P), sinusoid of time id 0."""
    half = TIME_ID_WIDTH // 2
    time_id = torch.cat([pooled.new_ones(len(pooled), half), pooled.new_zeros(len(pooled), half)], dim=1)
    return torch.cat([pooled, time_id], dim=1)


def build_parts(
    words: list[str],
    unet_config: dict | None = None,
    operations=None,
    dtype=None,
    device=None,
    info: dict | None = None,
) -> BundledParts:
    """Parts with fresh weights, for a vocabulary and a UNet configuration (default: the bundled one)."""
    config = dict(UNET_CONFIG if unet_config is None else unet_config)
    factory: dict[str, Any] = {"dtype": dtype, "device": device}
    layers = nn if operations is None else operations
    tokenizer = Tokenizer(words)
    return BundledParts(
        unet=UNetMotionModel(**config, operations=operations, **factory),
        text_encoder=TextEncoder(len(tokenizer), config["cross_attention_dim"], operations=layers, **factory),
        tokenizer=tokenizer,
        autoencoder=Autoencoder(layers, **factory),
        info=dict(info or {}),
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON description in a bundled model file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); expected the bundled model") from error
    if text is None:
        raise ValueError(
            f"{path} has no {METADATA_KEY!r} metadata; expected a bundled model written by `train bundled`"
        )
    description = parse_object(text, f"{path}: its entry {METADATA_KEY} of the header")
    if description.get("format") != FORMAT:
        raise ValueError(f"{path} has format {quoted(description.get('format'))}; this version reads format {FORMAT}")
    return description


def load_bundled(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, path: str | Path = WEIGHTS, operations=None
) -> BundledParts:
    """Load the model that ships with the package, in eval mode.

    Args:
        device, dtype: of all parts; on "meta" they have shapes but no values, and only the file's header is read.
        path: another file of the same format.
        operations: namespace that layers are taken from; default `torch.nn`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a bundled model, or keys missing or left over (named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a model as `unet-motion train bundled` writes it")
    description = read_metadata(path)
    parts = build_parts(description["words"], description["unet"], operations, dtype, device, description["info"])
    empty = torch.device(device).type == "meta"
    with safe_open(str(path), framework="pt", device="cpu" if empty else str(device)) as file:

        def read(key: str) -> Tensor:
            if empty:
                return torch.empty(file.get_slice(key).get_shape(), dtype=dtype, device=device)
            return file.get_tensor(key).to(dtype)

        for name, prefix in PREFIXES.items():
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            state = {key.removeprefix(prefix): read(key) for key in keys}
            module = getattr(parts, name)
            found = module.load_state_dict(state, strict=False)
            if found.missing_keys or found.unexpected_keys:
                raise ValueError(
                    f"{path} does not fit the {name}: missing {found.missing_keys}, unexpected {found.unexpected_keys}"
                )
            module.eval().requires_grad_(False)
    return parts
