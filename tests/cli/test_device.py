"""The device that commands compute on."""

import pytest
import torch

from unet_motion.cli.device import choose_device


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_without_a_name_it_is_a_cuda_device_where_there_is_one(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(None) == torch.device(expected)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used here"):
        choose_device("nowhere")
