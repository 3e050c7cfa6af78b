"""Words to vectors for the bundled model: a tokenizer over a small vocabulary and a one-layer text encoder."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MIN_TOKENS = 16
PAD, START = 0, 1
SPECIAL = ("<pad>", "<start>")


class Tokenizer:
    """Splits a prompt into known words.

    Args:
        words: the vocabulary; word i has id i + 2 (ids 0 and 1 pad and start a prompt).
    """

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.ids = {word: index + len(SPECIAL) for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words) + len(SPECIAL)

    @staticmethod
    def split(prompt: str) -> list[str]:
        """Lower-case words of a prompt; punctuation separates."""
        return re.findall(r"[^\W_]+", prompt.lower())

    def unknown_words(self, prompt: str) -> list[str]:
        """The prompt's words outside the vocabulary, in order, each once."""
        return [word for word in dict.fromkeys(self.split(prompt)) if word not in self.ids]

    def encode(self, prompt: str) -> Tensor:
        """Ids (1, T) of a prompt's known words after a start mark, padded to a multiple of 16.

        Unknown words are left out. The empty prompt is legal and means "anything".
        """
        ids = [START] + [self.ids[word] for word in self.split(prompt) if word in self.ids]
        return torch.tensor([ids + [PAD] * (-len(ids) % MIN_TOKENS)], dtype=torch.long)

    def encode_all(self, prompts: Sequence[str]) -> Tensor:
        """Ids (N, T) of several prompts, padded to the longest."""
        rows = [self.encode(prompt)[0] for prompt in prompts]
        length = max(len(row) for row in rows)
        return torch.stack([nn.functional.pad(row, (0, length - len(row)), value=PAD) for row in rows])


class TextEncoder(nn.Module):
    """Ids (N, T) to hidden states (N, T, width) for cross-attention and pooled text (N, width) for the time embedding.

    The pooled text is the sum of the words' embeddings; the hidden states are the embeddings after one transformer
    layer without positions: a prompt names one thing, so the order of its words carries nothing.

    Args:
        vocabulary: number of ids, the two special ones included.
        width: channels of both outputs.
        heads: attention heads.
        operations: namespace with `Embedding`, `Linear` and `LayerNorm` (torch.nn by default).
        dtype, device: of the parameters.
    """

    def __init__(self, vocabulary: int, width: int = 64, heads: int = 4, operations=nn, dtype=None, device=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = heads
        self.embedding = operations.Embedding(vocabulary, width, **factory)
        self.norm1 = operations.LayerNorm(width, **factory)
        self.qkv = operations.Linear(width, 3 * width, **factory)
        self.proj = operations.Linear(width, width, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.up = operations.Linear(width, 4 * width, **factory)
        self.down = operations.Linear(4 * width, width, **factory)
        self.final_norm = operations.LayerNorm(width, **factory)

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings (N, T, width) of ids (N, T)."""
        return self.embedding(ids)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.from_embeddings(self.embed(ids), ids != PAD)

    def from_embeddings(self, embeddings: Tensor, is_word: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, from embeddings (N, T, width), such as weighted; `is_word` (N, T) is False on padding."""
        pooled = (embeddings * is_word.unsqueeze(-1).to(embeddings.dtype)).sum(dim=1)
        x = embeddings
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.final_norm(x), pooled
