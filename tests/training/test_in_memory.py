"""Clips in memory, and the memory that training on them takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unet_motion import UNetMotionModel
from unet_motion.training.data.in_memory import HeldClips, same_length
from unet_motion.training.lora import LoraSettings, TrainableLora
from unet_motion.training.memory import estimate_memory

SMALL = {"block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
         "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"), "cross_attention_dim": 16}  # fmt: skip


def text(tokens, seed=0):
    return {"text": torch.randn(tokens, 16, generator=torch.Generator().manual_seed(seed)), "vector": torch.ones(3)}


def test_clips_are_drawn_as_they_were_given():
    latents = [torch.randn(6, 4, 8, 8), torch.randn(4, 4, 8, 8)]
    clips = HeldClips(["a", "b"], latents, [text(4), text(4, 1)], text(4, 2), 4)
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(30):
        draw = clips.draw(generator)
        (number,) = draw["source"].tolist()
        found = [i for i in range(3) if torch.equal(draw["latents"][0], latents[number][i : i + 4])]
        assert len(found) == 1 and torch.equal(draw["text"][0], text(4, number)["text"])
        starts.add((number, found[0]))
    assert starts == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert torch.equal(clips.empty_text()["text"], text(4, 2)["text"]) and clips.digest() == clips.digest()


def test_texts_of_other_lengths_are_repeated_and_mean_the_same():
    short, long = same_length([text(4), text(6, 1)])
    assert short["text"].shape == long["text"].shape == (12, 16) and short["vector"].shape == (3,)
    query = torch.randn(1, 5, 16)
    for before, after in ((text(4), short), (text(6, 1), long)):
        plain, repeated = (t["text"][None] for t in (before, after))
        assert torch.allclose(
            F.scaled_dot_product_attention(query, plain, plain),
            F.scaled_dot_product_attention(query, repeated, repeated),
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latents": []}, "there are 1 names, 0 clips and 1 texts"),
        (
            {"latents": [torch.zeros(3, 4, 8, 8)]},
            "walk: has latents of shape [3, 4, 8, 8], expected (at least 4 frames",
        ),
        ({"names": [], "latents": [], "texts": []}, "there are 0 clips, expected at least 1"),
    ],
)
def test_what_is_no_clip_is_named(change, said):
    given = {"names": ["walk"], "latents": [torch.zeros(4, 4, 8, 8)], "texts": [text(4)], "empty": text(4), "frames": 4}
    with pytest.raises(ValueError) as error:
        HeldClips(**given | change)
    assert said in str(error.value)


def kept(unet, frames, size, checkpointing):
    """Bytes of the tensors that a backward pass would read, without the weights."""
    own = {t.untyped_storage().data_ptr() for t in unet.state_dict().values()}
    seen = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    unet.gradient_checkpointing = checkpointing
    lora = TrainableLora(unet, LoraSettings())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unet.forward_frames(torch.randn(frames, 4, *size), 5, torch.randn(1, 6, 16), frames)
    lora.remove()
    return sum(count for count, _ in seen.values()), lora


@pytest.mark.parametrize(("frames", "size"), [(2, (8, 8)), (4, (16, 12))])
def test_the_estimate_is_what_a_step_keeps_give_or_take_a_half(frames, size):
    unet = UNetMotionModel(**SMALL)
    plain, lora = kept(unet, frames, size, False)
    found = estimate_memory(unet, LoraSettings(), frames, size, torch.float32, False)
    assert 0.5 * plain < found.activations < 1.5 * plain
    assert found.weights == sum(4 * t.numel() for t in unet.state_dict().values())
    assert found.lora == 16 * sum(p.numel() for p in lora.parameters().values())
    assert found.total == found.weights + found.lora + found.activations and "MB weights" in str(found)
    fewer = estimate_memory(unet, LoraSettings(), frames, size, torch.float32, True)
    assert kept(unet, frames, size, True)[0] < fewer.activations < 0.4 * found.activations
    half = estimate_memory(unet, LoraSettings(), frames, size, torch.bfloat16, False)
    assert half.activations * 2 == found.activations and half.weights < 0.6 * found.weights
