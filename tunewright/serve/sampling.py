"""The next token of a row, from its logits: greedy or drawn, by numbers that hang on the row's own seed alone."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from tunewright.serve.guides import Guide

NUCLEUS = 256
"""Tokens among which `top_p` is looked for first: sorting all of them costs more than a step."""


@dataclass(frozen=True)
class Sampling:
    """How a row is written. `logprobs`: how many alternatives of each token are told besides its own; None: nothing.
    `stop`: texts that end it, which it does not show; `ends`: tokens that do.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken, as the logits have it."""
        return self.temperature == 0.0 and not (self.presence_penalty or self.frequency_penalty or self.logit_bias)


@dataclass(frozen=True)
class Said:
    """A token that was chosen, with its log-probability and the likeliest ones (id, log-probability) where asked."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Drawer:
    """Chooses one row's tokens. `number`: which of a request's answers this is."""

    def __init__(self, sampling: Sampling, number: int = 0):
        self.sampling = sampling
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._random = Random(f"{seed}:{number}")
        self._said: Counter[int] = Counter()

    def choose(self, logits: Tensor, guide: Guide | None = None) -> Said:
        """A token for logits [V] (fp32), one that the guide lets follow. Log-probabilities are the model's own."""
        s = self.sampling
        token = self._token(logits if s.plain else self._moved(logits), guide)
        self._said[token] += 1
        if s.logprobs is None:
            return Said(token)
        shares = torch.log_softmax(logits, -1)
        best = shares.topk(min(s.logprobs, len(shares))) if s.logprobs else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Said(token, float(shares[token]), top)

    def _token(self, logits: Tensor, guide: Guide | None) -> int:
        allowed = None if guide is None else guide.allowed()
        if allowed is not None:
            logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
        while True:
            greedy = self.sampling.temperature == 0.0
            token = int(logits.argmax()) if greedy else self._drawn(logits / self.sampling.temperature)
            if guide is None or guide.accepts(token):
                return token
            # what is left, drawn from again, has the shares that it had among what may follow
            logits = logits.clone()
            logits[token] = -math.inf
            if not bool(logits.isfinite().any()):
                raise RuntimeError("no token goes on with what the answer is held to")

    def _moved(self, logits: Tensor) -> Tensor:
        s, logits = self.sampling, logits.clone()
        if self._said and (s.presence_penalty or s.frequency_penalty):
            ids = torch.tensor(list(self._said), device=logits.device)
            counts = torch.tensor(list(self._said.values()), dtype=logits.dtype, device=logits.device)
            logits[ids] -= s.presence_penalty + s.frequency_penalty * counts
        for token, bias in s.logit_bias.items():
            logits[token] += bias
        return logits

    def _drawn(self, logits: Tensor) -> int:
        shares, u = torch.softmax(logits, -1), self._random.random()
        if self.sampling.top_p >= 1.0:
            return _at(shares, u)
        for k in (min(NUCLEUS, len(shares)), len(shares)):
            best = shares.topk(k)
            below = best.values.cumsum(0) - best.values  # what comes before each
            if k == len(shares) or float(best.values.sum()) >= self.sampling.top_p:
                kept = best.values * (below < self.sampling.top_p)
                return int(best.indices[_at(kept, u)])
        raise AssertionError("the last try takes all tokens")


def _at(shares: Tensor, u: float) -> int:
    """Which share a number in [0, 1) falls into; never one of none."""
    sums = shares.double().cumsum(0)
    place = int(torch.searchsorted(sums, u * float(sums[-1]), right=True))
    return min(place, int(shares.nonzero()[-1]))
