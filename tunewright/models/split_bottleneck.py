"""A bottleneck whose way up is split into experts, one of which runs in a training forward.

    A(h) = c (U_e drop(f(D h + b)) + u_e),    D [a, d], U_e [out, a], u_e [out],  e = drawn[pass]
    evaluated:  U = (1/E) sum_e U_e,  u = (1/E) sum_e u_e,  no dropout

The entries of U are cut into E groups of equal size (to one entry) that share none: expert e has the values of its own
group and zeros elsewhere. So E experts hold as many weights as one bottleneck does. An expert that was not drawn has no
gradient at all, so that no optimizer moves it. `merged` is the plain bottleneck that evaluation runs.

A step may run the model in two passes, each with experts of its own: what runs inside `second_pass()` is the second. A
block that is computed again in the backward pass finds the pass of its own forward (`models/context.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.models import context
from tunewright.models.bottlenecks import ACTIVATIONS, Inserted
from tunewright.models.sites import Site

PASSES = 2
NOTE = "split-bottleneck's pass"
_pass: ContextVar[int] = ContextVar("tunewright_split_pass", default=0)


@contextmanager
def second_pass() -> Iterator[None]:
    """Inside, forwards are a step's second pass."""
    token = _pass.set(1)
    try:
        yield
    finally:
        _pass.reset(token)


def present_pass() -> int:
    """0 or 1: the pass of the present forward, noted of its rows when its first layer asks."""
    now = context.told()
    if now is None:
        return _pass.get()
    if NOTE not in now.notes:
        now.note(NOTE, torch.tensor(_pass.get()))
    return int(now.notes[NOTE][0])


def split(size: int, experts: int, generator: torch.Generator) -> Tensor:
    """[size] int64: for each of `size` entries the expert that owns it; groups differ by one entry at most."""
    order = torch.randperm(size, generator=generator)
    owner = torch.empty(size, dtype=torch.int64)
    for e in range(experts):
        owner[order[size * e // experts : size * (e + 1) // experts]] = e
    return owner


class SplitBottleneck(Inserted):
    """A bottleneck with experts in the place of `up` and `up_bias`; `owner` [out * a] names each entry's expert, and
    `drawn` [2] who runs in each pass.
    """

    form = "split-bottleneck"
    compiles = False  # not tried
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d")
    owner: Tensor
    drawn: Tensor

    def __init__(self, module: nn.Module, down: Tensor, owner: Tensor, experts: int, **form: Any):
        outputs = owner.numel() // len(down)
        super().__init__(module, down, torch.zeros(outputs, len(down)), biased=True, **form)
        del self.up, self.up_bias
        self.register_buffer("owner", owner)
        self.register_buffer("drawn", torch.zeros(PASSES, dtype=torch.int64))
        counts = torch.bincount(owner, minlength=experts).tolist()
        self.values = nn.ParameterList([torch.zeros(n) for n in counts])
        self.biases = nn.ParameterList([torch.zeros(outputs) for _ in range(experts)])

    @property
    def experts(self) -> int:
        return len(self.values)

    @property
    def entries(self) -> int:
        return 2 * self.down.numel()

    def expert(self, e: int) -> Tensor:
        """U_e [out, a]."""
        places = (self.owner == e).nonzero()[:, 0]
        flat = self.values[e].new_zeros(self.owner.numel())
        return flat.index_copy(0, places, self.values[e]).view(-1, len(self.down))

    def mean(self) -> tuple[Tensor, Tensor]:
        """U [out, a] and u [out], the means over the experts."""
        up = torch.stack([self.expert(e) for e in range(self.experts)]).mean(0)
        return up, torch.stack(list(self.biases)).mean(0)

    def of(self, h: Tensor) -> Tensor:
        h = h.to(self.down.dtype)
        low = ACTIVATIONS[self.activation](F.linear(h, self.down, self.down_bias))
        if not self.training:
            return F.linear(low, *self.mean()) * self.factor
        if self.dropout:
            low = F.dropout(low, self.dropout)
        e = int(self.drawn[present_pass()])
        return F.linear(low, self.expert(e), self.biases[e]) * self.factor

    def merged(self) -> Inserted:
        """The plain bottleneck of the experts' means, at the same strength."""
        up, bias = (t.detach() for t in self.mean())
        plain = Inserted(
            self._home[0],
            self.down.detach().clone(),
            up,
            activation=self.activation,
            factor=self.factor,
            place=self.place,
            source=self.source,
        )
        assert self.down_bias is not None and plain.down_bias is not None and plain.up_bias is not None
        plain.down_bias.data, plain.up_bias.data = self.down_bias.detach().clone(), bias
        plain.strength, plain.active = self.strength, self.active
        return plain

    def settings(self) -> dict[str, Any]:
        kept = ("activation", "factor", "place", "source", "dropout")
        shape = [self.owner.numel() // len(self.down), len(self.down), self.down.shape[1]]
        counts = [v.numel() for v in self.values]
        return {"shape": shape, "counts": counts, **{k: getattr(self, k) for k in kept}}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> SplitBottleneck:
        rest = dict(settings)
        (_, a, d), counts = rest.pop("shape"), rest.pop("counts")
        owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return cls(site.module, torch.zeros(a, d), owner, len(counts), **rest)
