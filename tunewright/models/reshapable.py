"""A model whose shape may change, with the way back: two bodies that are exchanged inside one model object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.agreement import same_bits
from tunewright.models.delta_names import is_delta
from tunewright.models.originals import Original
from tunewright.models.sites import Structure, discover
from tunewright.models.surgeries import check_surgery, recorded
from tunewright.models.surgery import Surgery, check_preserved, exchange, meaning, rows_in


@dataclass
class Operated:
    """A surgery that was done, and the other body: the model's before it, or the new one while the base is in place."""

    surgery: Surgery
    body: nn.Module
    structure: Structure
    always: dict[str, Tensor]


class Reshapable:
    """What `Adapted` is where its model's shape changes. `operated`: the surgeries, in the order in which they were
    done; the first one's body is the base.
    """

    model: nn.Module
    structure: Structure
    originals: dict[str, Original]
    always: dict[str, Tensor]
    operated: list[Operated]
    _away: bool  # whether the base is in place, in its own shape

    def carried(self) -> list[str]:
        """What hangs on the model that a change of its shape would lose, in words."""
        raise NotImplementedError

    def rediscover(self) -> None:
        raise NotImplementedError

    def base_parameters(self) -> dict[str, nn.Parameter]:
        raise NotImplementedError

    def remember(self, name: str, indices: Tensor | None = None) -> None:
        raise NotImplementedError

    def put_back(self) -> None:
        """Every original in its place, and forgotten."""
        raise NotImplementedError

    @property
    def base_size(self) -> int:
        """Parameters of the untouched base."""
        own = self.operated[0].body if self.operated else self.model
        return sum(p.numel() for n, p in own.named_parameters() if not is_delta(n))

    def operate(self, surgery: Surgery) -> None:
        """Change the model's shape. The base stays as it is in a body of its own; tensors that changed before keep
        their way back, as the surgery makes it of the base.

        MethodError where the model has deltas, a wrapper or 4-bit layers, or where the surgery does not fit it.
        """
        check_surgery(surgery, self.carried())
        tuned: dict[str, Tensor] = {}
        if self.originals:
            # of the weights as they are, and then of the base's: the one is what trains on, the other the way back
            tuned = {n: p.detach().clone() for n, p in surgery.apply(self.model).named_parameters()}
            self.put_back()
        body = surgery.apply(self.model)
        check_preserved(surgery, self.model, body)
        self.operated.append(Operated(surgery, body, discover(body), rows_in(self.always, self.model, body)))
        self._exchange(self.operated[-1])
        self.rediscover()
        for name in self.base_parameters() if surgery.computes else ():
            self.remember(name)
        self._become(tuned)

    def plain(self) -> list[str]:
        """Make a folded model one that transformers' class holds; says what was multiplied out, in the old shape.

        MethodError where it carries what the old shape could not.
        """
        undone = []
        while self.operated and (values := self.operated[-1].surgery.inverse(self.model)) is not None:
            check_surgery(self.operated[-1].surgery, self.carried())
            kept = {n: v.detach().clone() for n, v in values.items()}
            undone.append(self.undo().told())
            self._become(kept)
        return undone

    def undo(self) -> Surgery:
        """Take the last surgery back, and what trained after it."""
        self.put_back()
        last = self.operated.pop()
        self._exchange(last)
        self.rediscover()
        return last.surgery

    @torch.no_grad()
    def _become(self, values: Mapping[str, Tensor]) -> None:
        """Take on values of base tensors where they are others than the present ones."""
        for name, p in self.base_parameters().items():
            if name in values and not same_bits(values[name], p):
                self.remember(name)
                p.copy_(values[name])

    def _exchange(self, operated: Operated) -> None:
        """Give the model its other body: its modules, parameters and config, inside the same object."""
        exchange(self.model, operated.body)
        self.structure, operated.structure = operated.structure, self.structure
        self.always, operated.always = operated.always, self.always

    def surgeries(self) -> list[dict[str, Any]]:
        """What was done to the model's shape, as files hold it."""
        return [recorded(o.surgery) for o in self.operated]

    def reshaped(self) -> list[str]:
        """What a report says of a changed shape; nothing of the base's own."""
        return meaning([o.surgery for o in self.operated])

    @contextmanager
    def _in_own_shape(self, own: bool) -> Iterator[None]:
        """With the base's own body in place, where `own` is asked for and there was a surgery."""
        if not own or not self.operated:
            yield
            return
        for operated in reversed(self.operated):
            self._exchange(operated)
        self._away = True
        try:
            yield
        finally:
            self._away = False
            for operated in self.operated:
                self._exchange(operated)
