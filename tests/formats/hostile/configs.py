"""Generated configurations, indices and descriptions beside sound weights: fields of odd types and sizes."""

from __future__ import annotations

import json
import random
from pathlib import Path

from unet_motion import MotionAdapter, UNetMotionModel
from unet_motion.files.description import DESCRIPTION_KEY, description_tensor

from .models import STATES, config_of, save
from .odd import odd_json, odd_text, odd_value

FIELDS = sorted(
    {
        *UNetMotionModel.config_class.field_names(),
        *MotionAdapter.config_class.field_names(),
        "_class_name",
        "_use_default_values",
        "attention_head_dim",
        "resnet_norm_scope",
        "flip_sin_to_cos",
        "class_embed_type",
        "motion_activation_fn",
        "mid_block_type",
        "anything",
    }
)


def spoiled(dice: random.Random, config: dict) -> dict:
    """A configuration with one to three fields that are odd, or as large as a hostile one."""
    config = dict(config)
    names = [*config, *FIELDS]
    for _ in range(dice.randint(1, 3)):
        name, way = dice.choice(names), dice.random()
        if way < 0.5 and isinstance(config.get(name), (int, list)):
            config[name] = scaled(config[name], dice.choice((0, -1, 2, 5, 25, 800, 10**4, 10**6, 2**31, 2**40)))
        elif way < 0.9:
            config[name] = odd_value(dice)
        else:
            config.pop(name, None)
    return config


def scaled(value, factor: int):
    return (
        [scaled(entry, factor) for entry in value]
        if isinstance(value, list)
        else (value * factor if isinstance(value, int) and not isinstance(value, bool) else value)
    )


def written(dice: random.Random, content) -> bytes:
    text = odd_json(dice) if dice.random() < 0.06 else json.dumps(content)
    raw = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.03:
        raw = raw[: dice.randrange(len(raw) + 1)] + dice.choice((b"", b"\xff\xfe", b"\0"))
    return raw


def make_folder(dice: random.Random, folder: Path, kind: str, name: str) -> Path:
    """A folder as diffusers lays it out, with an odd `config.json` or an odd index."""
    state, config = STATES[kind](), config_of(kind)
    odd_index = dice.random() < 0.3
    (folder / "config.json").write_bytes(written(dice, config if odd_index else spoiled(dice, config)))
    if not odd_index:
        save(state, folder / "diffusion_pytorch_model.safetensors")
        return folder if dice.random() < 0.7 else folder / "diffusion_pytorch_model.safetensors"
    save(state, folder / "part-1.safetensors")
    names = dict.fromkeys(state, "part-1.safetensors")
    for _ in range(dice.randint(0, 3)):
        key = dice.choice([*names, odd_text(dice)])
        names[key] = dice.choice(
            (
                odd_text(dice),
                odd_value(dice),
                "../part-1.safetensors",
                "part-2.safetensors",
                "config.json",
                "x" * 300,
                ".",
            )
        )
    index = {"metadata": odd_value(dice), "weight_map": names if dice.random() < 0.8 else odd_value(dice)}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_bytes(written(dice, index))
    return folder


def make_described(dice: random.Random, folder: Path, kind: str, name: str) -> Path:
    """A file that says itself what it is, in its header or in a tensor."""
    config = spoiled(dice, config_of(kind))
    entry = "motion_adapter" if kind in ("motion_adapter", "motion_module") else "unet"
    content = {entry: config, "training": odd_value(dice)}
    if dice.random() < 0.1:
        content[entry] = odd_value(dice)
    path = folder / "described.safetensors"
    if dice.random() < 0.6:
        text = written(dice, content).decode("utf-8", "replace")
        return save(STATES[kind](), path, {DESCRIPTION_KEY: text})
    return save({**STATES[kind](), DESCRIPTION_KEY: description_tensor(content)}, path)


def make(dice: random.Random, folder: Path) -> Path:
    kind = dice.choice(("unet2d", "unet_motion", "motion_adapter", "motion_module"))
    way = make_described if kind == "motion_module" or kind != "unet2d" and dice.random() < 0.5 else make_folder
    # A partial file leaves more to the configuration.
    return way(dice, folder, kind, "a")
