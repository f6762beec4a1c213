"""Networks that make virtual tokens or their keys and values from a table, so that these train along with one another.

Layers and their order are PEFT's. n virtual tokens, D the size of one's embedding. Each starts from a generator.
"""

from __future__ import annotations

import random
from typing import Literal

from torch import Tensor, nn

from tunewright.pieces.seeded import seeded_start


class PrefixEncoder(nn.Module):
    """Keys and values [n, out] of n virtual tokens: a table of them, or with `hidden` a table [n, D] and a network,

    out = W2 tanh(W1 e + b1) + b2. Tables start normal with deviation 1, layers as torch starts them; `zero`: what it
    gives starts at zero.
    """

    def __init__(self, n: int, width: int, out: int, hidden: int | None, zero: bool, rng: random.Random):
        super().__init__()
        with seeded_start(rng):
            self.embedding = nn.Embedding(n, out if hidden is None else width)
            self.transform = (
                None if hidden is None else nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))
            )
        if zero:
            last = [self.embedding.weight] if self.transform is None else list(self.transform[-1].parameters())
            for p in last:
                nn.init.zeros_(p)

    def forward(self) -> Tensor:
        e = self.embedding.weight
        made: Tensor = e if self.transform is None else self.transform(e)
        return made


class PromptEncoder(nn.Module):
    """Virtual tokens [n, D] from a table of n embeddings, by three linear layers (MLP) or two directions of an LSTM."""

    def __init__(
        self,
        n: int,
        width: int,
        hidden: int,
        kind: Literal["MLP", "LSTM"],
        layers: int,
        dropout: float,
        rng: random.Random,
    ):
        super().__init__()
        with seeded_start(rng):
            self.embedding = nn.Embedding(n, width)
            self.lstm_head: nn.LSTM | None = None
            if kind == "LSTM":
                more = {"dropout": dropout, "bidirectional": True, "batch_first": True}
                self.lstm_head = nn.LSTM(width, hidden, num_layers=layers, **more)  # type: ignore[arg-type]
                self.mlp_head = nn.Sequential(
                    nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width)
                )
            else:
                inner = (nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
                self.mlp_head = nn.Sequential(*inner, nn.Linear(hidden, width))

    def forward(self) -> Tensor:
        e = self.embedding.weight[None]
        if self.lstm_head is not None:
            e = self.lstm_head(e)[0]
        made: Tensor = self.mlp_head(e)[0]
        return made


def by_rows(encoder: PrefixEncoder, layers: int, heads: int, size: int) -> Tensor:
    """[n, layers, 2, heads, size] of what a prefix encoder gives: keys and values of each layer."""
    made: Tensor = encoder()
    return made.view(len(made), layers, 2, heads, size)
