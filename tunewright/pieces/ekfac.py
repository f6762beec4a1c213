"""EK-FAC: linear layers' Gauss-Newton matrix by the eigenvectors of its Kronecker factors (George et al. 2018,
arXiv:1806.03884), as influence functions use it (Grosse et al. 2023, arXiv:2308.03296).

Of a layer with inputs a [T, in] and gradients d [T, out] of a row's loss by its outputs, a row's gradient is d^T a
[out, in]. With U the eigenvectors of the mean of a a^T over tokens and V those of d d^T, the layer's matrix is taken as

    G = (V x U) diag(values) (V x U)^T,     values [out, in] = mean over rows of (V^T g U)^2, elementwise

which is the diagonal of the mean of g g^T in that basis, exactly. Layers are independent of each other. A bias is a
column of its own, behind the inputs'. All numbers are float32, eigenvectors are found in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.sites import Site

Sides = dict[str, tuple[Tensor, Tensor]]
"""By layer a row's inputs [T, in] and the gradients of its loss by the outputs [T, out]."""


class Watch:
    """What goes through some layers, forwards and back."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, Tensor, Tensor]] = []

    def note(self, name: str, module: nn.Module, given: Any, out: Tensor) -> Tensor:
        """Add nothing to a layer's output [..., out], so that the loss has a gradient by it."""
        a = given[0].detach().flatten(0, -2).float()
        if getattr(module, "bias", None) is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
        nothing = torch.zeros_like(out, requires_grad=True)
        self._calls.append((name, a, nothing))
        return out + nothing

    def sides(self, loss: Tensor) -> Sides:
        """Both sides of each layer that the loss went through; a layer that ran twice for it has the tokens of both.

        What ran without a say in the loss (a task tries a model out on its first batch) is forgotten.
        """
        calls, self._calls = self._calls, []
        found = torch.autograd.grad(loss, [z for *_, z in calls], allow_unused=True)
        by_name: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for (name, a, _), d in zip(calls, found, strict=True):
            if d is not None:
                by_name.setdefault(name, []).append((a, d.detach().flatten(0, -2).float()))
        return {n: (torch.cat([a for a, _ in s]), torch.cat([d for _, d in s])) for n, s in by_name.items()}


@contextmanager
def watching(sites: Sequence[Site]) -> Iterator[Watch]:
    """Watch linear layers for as long as it is open."""
    watch = Watch()
    hooks = [s.module.register_forward_hook(partial(watch.note, s.name)) for s in sites]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def gradients(sides: Sides) -> dict[str, Tensor]:
    """[out, in] gradient of a row's loss by each layer's weight (and bias, as a last column)."""
    return {name: d.T @ a for name, (a, d) in sides.items()}


@dataclass(frozen=True)
class Factors:
    """Of one layer: U [in, in], V [out, out] and the values [out, in] of its matrix in their basis."""

    U: Tensor
    V: Tensor
    values: Tensor

    def solved(self, g: Tensor, damping: float) -> Tensor:
        """[out, in] (G + damping m I)^-1 g, where m is the mean of the values."""
        return self.V @ ((self.V.T @ g @ self.U) / (self.values + damping * self.values.mean())) @ self.U.T


def bases(rows: Iterable[Sides]) -> dict[str, tuple[Tensor, Tensor]]:
    """(U, V) of each layer, from both sides of rows: of tokens' second moments, which count alike."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for sides in rows:
        for name, (a, d) in sides.items():
            A, D = sums.get(name, (0.0, 0.0))
            sums[name] = A + (a.T @ a).double(), D + (d.T @ d).double()
    return {n: tuple(torch.linalg.eigh(m).eigenvectors.float() for m in pair) for n, pair in sums.items()}  # type: ignore[misc]


def corrected(found: dict[str, tuple[Tensor, Tensor]], rows: Iterable[Sides]) -> dict[str, Factors]:
    """The factors of each layer in the given bases, their values the means over rows."""
    sums, count = {n: torch.zeros(len(V), len(U)) for n, (U, V) in found.items()}, 0
    for sides in rows:
        for name, g in gradients(sides).items():
            U, V = found[name]
            sums[name] = sums[name].to(g) + (V.T @ g @ U).square()
        count += 1
    return {n: Factors(*found[n], total / count) for n, total in sums.items()}
