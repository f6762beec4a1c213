"""Sequences that random networks make of noise, again and again (Bloem 2025, arXiv:2506.20057; papers:
iterated-random-computation).

A buffer holds B sequences of n symbols, uniformly random at first. One round, for s sequences z drawn from it:

    a share `reset` of them is made uniformly random anew
    a causal transformer f is drawn: every matrix U(-1, 1) / sqrt(in) (embeddings N(0, 1)) times u, u ~ U(0, 5), a
        share p ~ U(0, 0.7) of its entries zero
    y_i ~ softmax(f(z)_i / T);  z_i <- y_i where the network's extra output at i is above 0, else it stays

and z goes back. So structure that one network made is what the next one works on, and sequences of every depth lie in
the buffer. Each round gives s sequences drawn from it as rows; their symbols are the printable ASCII characters.

Defaults are those of the authors' code for the drawing of networks (multiplier 5, masks 0.7, T 0.5, reset 0.01, a
buffer of 20 batches); width, heads, depth and length are ours, small enough for one core.

Source: pbloem/up, experiments/gpt.py and up/models.py.
Differs from the paper in: 95 symbols in the place of 256 bytes; the buffer is not shared with the training loop, so
that a row comes from the round in which it is drawn, whatever reads it; an output stays where the extra output says so
(the authors' code takes every output, whose sigmoid is never 0). A blank row is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tunewright.data.generators import Generator

SYMBOLS = "".join(map(chr, range(32, 127)))
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Rows(Generator):
    """Texts of random symbols that random networks have worked on."""

    length: PositiveInt = Field(128, description="symbols of a row")
    alphabet: int = Field(95, ge=2, le=len(SYMBOLS), description="different symbols, from the space on")
    buffer: PositiveInt = Field(640, description="sequences that are kept and worked on")
    batch: PositiveInt = Field(32, description="sequences of a round, which one network works on")
    rounds: NonNegativeInt = Field(40, description="rounds before the first row")
    width: PositiveInt = Field(64, description="the networks' width")
    heads: PositiveInt = Field(4, description="their attention heads, a divisor of the width")
    depth: PositiveInt = Field(2, description="their blocks")
    temperature: PositiveFloat = Field(0.5, description="T, at which outputs are drawn")
    reset: float = Field(0.01, ge=0, le=1, description="share of a round's sequences that become noise again")
    multiplier: NonNegativeFloat = Field(
        5.0, description="largest factor of a matrix of a network; 0: outputs are noise"
    )
    masked: float = Field(0.7, ge=0, le=1, description="largest share of a matrix' entries that are zero")

    @model_validator(mode="after")
    def _heads_divide(self) -> Rows:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self

    def make(self) -> Iterator[Mapping[str, Any]]:
        rng = np.random.default_rng(self.seed)
        held = rng.integers(0, self.alphabet, (self.buffer, self.length))
        size = min(self.batch, self.buffer)
        left, done = self.rows, 0
        while left:
            at = rng.choice(self.buffer, size, replace=False)
            held[at] = self._worked_on(held[at], rng)
            done += 1
            if done <= self.rounds:
                continue
            for i in rng.choice(self.buffer, size, replace=False).tolist():
                text = "".join(SYMBOLS[k] for k in held[i].tolist())
                if left and text.strip():
                    left -= 1
                    yield {"text": text}
                elif not text.strip():
                    held[i] = rng.integers(0, self.alphabet, self.length)

    def _worked_on(self, z: Ids, rng: np.random.Generator) -> Ids:
        """One round over sequences [s, n]."""
        noise = rng.integers(0, self.alphabet, z.shape)
        z = np.where(rng.random((len(z), 1)) < self.reset, noise, z)
        out = network(z, self.alphabet, self.width, self.heads, self.depth, self.multiplier, self.masked, rng)
        logits = out[..., : self.alphabet] / self.temperature
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(-1)  # the largest of these is a draw from the softmax
        return np.where(out[..., -1] > 0, drawn, z)


def network(
    z: Ids,
    alphabet: int,
    width: int,
    heads: int,
    depth: int,
    multiplier: float,
    masked: float,
    rng: np.random.Generator,
) -> Floats:
    """What a random causal transformer gives for sequences [s, n]: logits and one more output, [s, n, alphabet + 1]."""

    def matrix(rows: int, columns: int, embedding: bool = False) -> Floats:
        drawn = rng.normal(size=(rows, columns)) if embedding else rng.uniform(-1, 1, (rows, columns)) / rows**0.5
        kept = rng.random((rows, columns)) >= rng.random() * masked
        factor = rng.random() * multiplier
        weights: Floats = (drawn * kept * factor).astype(np.float32)
        return weights

    count, n = z.shape
    each = width // heads
    hidden = np.triu(np.full((n, n), -np.inf, np.float32), 1)
    x: Floats = matrix(alphabet, width, True)[z] + matrix(n, width, True)
    for _ in range(depth):
        q, k, v = ((x @ matrix(width, width)).reshape(count, n, heads, each).transpose(0, 2, 1, 3) for _ in range(3))
        scores = q @ k.swapaxes(-1, -2) / each**0.5 + hidden
        seen = np.exp(scores - scores.max(-1, keepdims=True))
        seen /= seen.sum(-1, keepdims=True)
        x = _normed(x + (seen @ v).transpose(0, 2, 1, 3).reshape(count, n, width) @ matrix(width, width))
        x = _normed(x + np.maximum(x @ matrix(width, 4 * width), 0) @ matrix(4 * width, width))
    out: Floats = (x @ matrix(width, alphabet + 1)).astype(np.float32)
    return out


def _normed(x: Floats) -> Floats:
    """Each vector with mean 0 and variance 1."""
    centred = x - x.mean(-1, keepdims=True)
    scaled: Floats = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5))
    return scaled
