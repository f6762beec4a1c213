"""The supervised fine-tuning workload: freshly made Llama models and rows of a prompt and a response.

Imports neither tunewright nor peers, so that every side's own environment can make the same model and rows.
Prompts of 100-400 and responses of 20-110 tokens, loss on the response only, 8 rows per batch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama: vocabulary, hidden size, layers, heads, width of the MLP, and whether the head is tied."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    mlp: int
    tied: bool

    @property
    def linear(self) -> int:
        """Weights of the linears inside blocks."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.mlp)


SHAPES = {
    "30m": Shape(8192, 512, 8, 8, 1408, False),
    "100m": Shape(32000, 768, 12, 12, 2048, True),
    "tiny": Shape(512, 32, 2, 4, 64, False),
}
PAD, BOS, EOS = 1, 0, 2


@dataclass(frozen=True)
class Example:
    """One row: token ids, of which the first `prompt` are not trained."""

    ids: tuple[int, ...]
    prompt: int


def make_model(name: str, dtype: str, seed: int = 0) -> Any:
    """A freshly initialised LlamaForCausalLM; equal for equal seeds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    s = SHAPES[name]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=s.vocabulary,
        hidden_size=s.hidden,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.heads,
        intermediate_size=s.mlp,
        max_position_embeddings=2048,
        tie_word_embeddings=s.tied,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def make_rows(name: str, count: int, seed: int = 0) -> list[Example]:
    """`count` rows of uniform lengths and tokens."""
    r, vocabulary = random.Random(seed), SHAPES[name].vocabulary
    rows = []
    for _ in range(count):
        prompt, response = r.randint(100, 400), r.randint(20, 110)
        rows.append(Example(tuple(r.randrange(3, vocabulary) for _ in range(prompt + response)), prompt))
    return rows


def useful_flops(name: str, rows: list[Example], full: bool) -> float:
    """Least work of one step: linears at real tokens, causal attention, the head where a label is trained.

    4 FLOPs a weight and token with frozen weights (forward, and the gradient of the input), 6 where weights train.
    """
    s, each = SHAPES[name], 6 if full else 4
    tokens = sum(len(r.ids) for r in rows)
    trained = sum(len(r.ids) - r.prompt for r in rows)
    attention = sum(2 * len(r.ids) ** 2 * s.hidden for r in rows) * s.layers * 3.0
    return each * s.linear * tokens + attention + each * s.vocabulary * s.hidden * trained
