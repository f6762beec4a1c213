"""A stack of blocks in which something looks at each block's output and may let rows go: those run no further block.

Shapes: R rows, T tokens, D width of the states, A rows that still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Leave = Callable[[int, Tensor, Tensor], Tensor | None]
"""leave(block, states [A, T, D], rows [A]) -> which of them go [A] (bool); None: nobody does."""


@contextmanager
def watched(blocks: Sequence[nn.Module], leave: Leave, shrink: bool) -> Iterator[None]:
    """Inside, `leave` is asked after every block but the last. What rows have left is not computed, where `shrink` is
    set; else they run on beside the others, and nothing but the last one's leaving saves a block.

    After the last block all R rows stand in their places again, those that left with the states that they left with.
    The blocks' own forward is had back at the end.
    """
    held = _Rows(leave, shrink)
    before = [b.__dict__.get("forward") for b in blocks]
    try:
        for i, block in enumerate(blocks):
            object.__setattr__(block, "forward", _call(block.forward, i, i + 1 == len(blocks), held))
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.__dict__["forward"]
            else:
                object.__setattr__(block, "forward", forward)


class _Rows:
    """Which rows still run, and the states of those that do not."""

    def __init__(self, leave: Leave, shrink: bool):
        self.leave, self.shrink = leave, shrink
        self.states: Tensor | None = None
        self.running = torch.empty(0, dtype=torch.long)
        self.gone: Tensor | None = None
        self.in_tuple = self.shrinks = False

    def begin(self, states: Tensor) -> None:
        # a mask [T, T] of as many tokens as rows would be taken for one of rows
        self.shrinks = self.shrink and len(states) != states.shape[1]
        self.states, self.running = None, torch.arange(len(states), device=states.device)
        self.gone = torch.zeros(len(states), dtype=torch.bool, device=states.device)

    @property
    def done(self) -> bool:
        return self.gone is not None and bool(self.gone.all())


def _call(run: Callable[..., Any], i: int, last: bool, held: _Rows) -> Callable[..., Any]:
    def forward(*args: Any, **given: Any) -> Any:
        states: Tensor = args[0] if args else given["hidden_states"]
        if i == 0:
            held.begin(states)
        count = len(held.gone) if held.gone is not None else len(states)
        if held.done:
            out: Any = states
        else:
            if len(states) < count:
                args, given = _of(args, held.running, count), _of(given, held.running, count)
            out = run(*args, **given)
            held.in_tuple = isinstance(out, tuple)
            states = out[0] if held.in_tuple else out
            if not last:
                states = _let_go(i, states, held)
        if last or held.done:
            states = _placed(states, held, count)
        return (states, *out[1:]) if isinstance(out, tuple) else (states,) if held.in_tuple else states

    return forward


def _let_go(i: int, states: Tensor, held: _Rows) -> Tensor:
    assert held.gone is not None
    go = held.leave(i, states, held.running)
    if go is None or not bool(go.any()):
        return states
    held.gone = held.gone.index_fill(0, held.running[go], True)
    if not held.shrinks:
        return states
    if held.states is None:
        held.states = states.new_zeros(len(held.gone), *states.shape[1:])
    held.states = held.states.index_copy(0, held.running[go], states[go])
    held.running = held.running[~go]
    return states[~go]


def _placed(states: Tensor, held: _Rows, count: int) -> Tensor:
    """All rows in their places: [R, T, D]."""
    if held.states is None or len(states) == count:
        return states
    return held.states.index_copy(0, held.running, states)


def _of(given: Any, rows: Tensor, count: int) -> Any:
    """The same of some rows: tensors that have an entry for each of all `count` rows, wherever they lie."""
    if isinstance(given, Tensor):
        return given[rows.to(given.device)] if given.dim() > 1 and len(given) == count else given
    if isinstance(given, tuple | list):
        return type(given)(_of(x, rows, count) for x in given)
    if isinstance(given, Mapping):
        return {k: _of(v, rows, count) for k, v in given.items()}
    return given
