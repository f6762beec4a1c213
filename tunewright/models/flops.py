"""Floating-point operations as they happen: every product with a weight, forward and backward, whoever asks for it.

A counter hears each module's forward while it is open, and each gradient that comes back through the module's output:
a method that runs the model four times a step, a teacher beside it and blocks that are computed again are counted as
often as they run. A multiplication and an addition are two operations (Kaplan et al. 2020): a weight of N entries costs
2 N a position forward, 2 N for the gradient of its input where that needs one, and 2 N for its own where it trains (of
few of its entries, where these are computed alone, 2 for each).

What is left out: products of activations with each other (attention's 2 x length x width a token and layer, twice),
element-wise operations, look-ups, and what a method multiplies by itself outside of any module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tunewright.models.nf4 import NF4Linear
from tunewright.models.sampled_gradients import computed

C = TypeVar("C", bound="Counter")

_OPEN: ContextVar[tuple[Counter, ...]] = ContextVar("open", default=())
_HEARING: dict[Counter, RemovableHandle] = {}


class Counter:
    """Operations since it was opened, but those of the modules `without`."""

    def __init__(self, without: Iterable[nn.Module] = ()) -> None:
        self.total = 0.0
        self._without = {id(m) for m in without}

    def heard(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Count a module's forward, and its backward when that comes."""
        if self not in _OPEN.get() or not isinstance(output, Tensor) or id(module) in self._without:
            return  # another thread's forward, or a module that only calls others
        products = _products(module, inputs)
        if not products:
            return
        x = next((i for i in inputs if isinstance(i, Tensor)), None)
        positions = _positions(module, x, output)
        back = 0.0
        for entries, trains in products:
            self.total += 2.0 * positions * entries
            back += 2.0 * positions * (entries * (x is not None and x.requires_grad) + trains)
        self.await_gradient(back, output)

    def await_gradient(self, operations: float, output: Tensor) -> None:
        """Count `operations` whenever a gradient comes back through `output`."""
        if operations and torch.is_grad_enabled() and output.requires_grad:
            output.register_hook(lambda gradient: self._spend(operations))

    def _spend(self, operations: float) -> None:
        self.total += operations


class Foreseen(Counter):
    """Operations of forwards in `total`, and in `back` those of their backward passes, as if these had come."""

    def __init__(self) -> None:
        super().__init__()
        self.back = 0.0

    def await_gradient(self, operations: float, output: Tensor) -> None:
        if torch.is_grad_enabled() and output.requires_grad:
            self.back += operations


@contextmanager
def counting(without: Iterable[nn.Module] = ()) -> Iterator[Counter]:
    """Count what every module does inside, but for those in `without`, in this thread; counters nest, each counting all
    that it encloses.
    """
    with _opened(Counter(without)) as counter:
        yield counter


@contextmanager
def foreseeing() -> Iterator[Foreseen]:
    """Count what every module does inside, and what its backward pass would, whether or not it comes."""
    with _opened(Foreseen()) as counter:
        yield counter


@contextmanager
def _opened(counter: C) -> Iterator[C]:
    token = _OPEN.set((*_OPEN.get(), counter))
    _HEARING[counter] = nn.modules.module.register_module_forward_hook(counter.heard)
    try:
        yield counter
    finally:
        _HEARING.pop(counter).remove()
        _OPEN.reset(token)


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, no hook tells this thread's counters of modules; whoever does that books what they do."""
    mine = _OPEN.get()
    for counter in mine:
        _HEARING[counter].remove()
    try:
        yield
    finally:
        for counter in mine:
            _HEARING[counter] = nn.modules.module.register_module_forward_hook(counter.heard)


def counted() -> bool:
    """Whether somebody counts in this thread."""
    return bool(_OPEN.get())


@contextmanager
def uncounted() -> Iterator[None]:
    """Leave out what is no part of the work: a check made once, which a resumed run makes again."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def book(forward: float, backward: float, output: Tensor) -> None:
    """Count operations of what is no module: `forward` now, `backward` when a gradient comes through `output`."""
    for counter in _OPEN.get():
        counter.total += forward
        counter.await_gradient(backward, output)


def _products(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[float, float]]:
    """(entries that a position is multiplied with, how many of them have a gradient) of a module's own weights and
    deltas.
    """
    if isinstance(module, nn.Embedding):
        return []
    found: list[tuple[float, float]] = []
    weight = module._parameters.get("weight")
    if weight is not None and weight.dim() >= 2:
        found.append((weight.numel(), computed(weight) * weight.requires_grad))
    elif isinstance(module, NF4Linear):
        found.append((module.in_features * module.out_features, 0.0))
    elif weight is None:
        found += _experts(module, inputs)
    stack: Any = module._modules.get("delta")
    for delta in stack.values() if stack is not None else ():
        if delta.active:
            found += [(entries, entries * trains) for entries, trains in delta.products()]
    return found


def _experts(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[float, float]]:
    """Matrices stacked in one tensor [E, ..], of which each position takes the k that it is routed to."""
    stacked = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
    routes = next((i for i in inputs if isinstance(i, Tensor) and not i.is_floating_point() and i.dim() == 2), None)
    if not stacked or routes is None:
        return []
    met = [(p.numel() / p.shape[0] * routes.shape[-1], p.requires_grad) for p in stacked]
    return [(entries, entries * trains) for entries, trains in met]


def _positions(module: nn.Module, x: Tensor | None, output: Tensor) -> float:
    """How many rows a module's weight was multiplied with."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and x is not None:
        return x.numel() / x.shape[1]
    conv = isinstance(module, nn.modules.conv._ConvNd)
    return output.numel() / output.shape[1 if conv else -1]
