import pytest
import torch

from unet_motion.bundled import TextEncoder, Tokenizer, added_cond, added_vector
from unet_motion.config.unet import UNetMotionConfig
from unet_motion.forward.conditioning import text_time_vector

WORDS = ["a", "left", "moving", "red", "star"]


def test_known_words_become_ids_and_unknown_ones_are_named_once():
    tokenizer = Tokenizer(WORDS)
    assert tokenizer.encode("A red, STAR moving left!").tolist() == [[1, 2, 5, 6, 4, 3] + [0] * 10]
    assert tokenizer.unknown_words("a tiny red dragon, tiny star") == ["tiny", "dragon"]
    assert torch.equal(tokenizer.encode("a tiny red star"), tokenizer.encode("a red star"))


def test_the_empty_prompt_is_only_the_start_mark():
    assert Tokenizer(WORDS).encode("").tolist() == [[1] + [0] * 15]


def test_long_prompts_are_kept_whole():
    ids = Tokenizer(WORDS).encode("red " * 20)
    assert ids.shape == (1, 32)
    assert int((ids == 5).sum()) == 20
    assert Tokenizer(WORDS).encode_all(["red " * 20, ""]).shape == (2, 32)


def test_pooled_text_is_the_sum_of_the_words_and_ignores_padding():
    torch.manual_seed(0)
    encoder, tokenizer = TextEncoder(7, 16), Tokenizer(WORDS)
    _, pooled = encoder(tokenizer.encode("red star"))
    table = encoder.embedding.weight
    assert torch.allclose(pooled[0], table[1] + table[5] + table[6], atol=1e-6)
    assert torch.allclose(encoder(torch.tensor([[1, 5, 6]]))[1], pooled, atol=1e-6)


def test_the_added_vector_equals_what_the_unet_builds_itself():
    config = UNetMotionConfig(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24
    )
    pooled = torch.randn(3, 16)
    built = text_time_vector(added_cond(pooled, 6), config, 3, 2, torch.zeros(1))
    assert torch.allclose(built, added_vector(pooled).repeat_interleave(2, dim=0), atol=1e-6)
    with pytest.raises(ValueError, match="multiple of the 3 rows"):
        added_cond(pooled, 4)
