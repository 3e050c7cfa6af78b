import json

import pytest
import torch
from safetensors.torch import save_file

from unet_motion.bundled import build_parts
from unet_motion.bundled.parts import FORMAT, METADATA_KEY, PREFIXES, UNET_CONFIG

INFO = {"beta_schedule": "scaled_linear", "beta_end": 0.02, "prediction": "v_prediction", "latent_scale": 0.5}
WORDS = ["a", "red", "blue", "star", "circle", "moving", "left", "right"]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A file of the bundled model's form with small random weights."""
    torch.manual_seed(5)
    config = {**UNET_CONFIG, "block_out_channels": (32, 64), "motion_max_seq_length": 8}
    parts = build_parts(WORDS, config)
    state = {
        prefix + key: value.clone().contiguous()
        for name, prefix in PREFIXES.items()
        for key, value in getattr(parts, name).state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    description = {"format": FORMAT, "words": WORDS, "unet": config, "info": INFO}
    save_file(state, str(path), metadata={METADATA_KEY: json.dumps(description)})
    return path
