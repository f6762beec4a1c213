"""What is read of a model, a result an item: by one process, or by all of a run's, each every n-th item.

The first process leads: it says what is to be read, of which items and at which strength of the change, and the others,
which go through no measuring of their own, read with it until it says that there is nothing more. Results travel as
JSON, so that a float comes as it was. What needs all items at once (rows that are read beside one another, features,
probes, streams) the first reads alone. `meter` is a run's `Meter`, which asks here. Where weights are divided among the
processes, all read all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor

from tunewright.machine.group import present
from tunewright.measure.asking import ask
from tunewright.measure.drift import kl_by_row
from tunewright.measure.few_shot import few_shot
from tunewright.measure.kept import DocumentLoss, losses_by_document
from tunewright.measure.rows import RowResult
from tunewright.measure.target import answers_and_choices, evaluate

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """`of(meter, places, **how)` gives a result for each of some items, by their places; `known` makes one of what
    JSON keeps of it.
    """

    of: Callable[..., Sequence[Any]]
    known: Callable[[Any], Any]


def _target(meter: Any, places: Sequence[int], *, scores_only: bool) -> list[RowResult]:
    s = meter.session
    how: dict[str, Any] = {"scores_only": scores_only, "num_beams": meter.spec.num_beams, "packed": s.packed}
    rows, reads = [meter.rows[i] for i in places], s.tokenizer or s.loaded.processor
    return evaluate(meter.model, reads, s.task, rows, meter.metric, max_new_tokens=meter.longest(), **how)


def _answers(meter: Any, places: Sequence[int]) -> list[tuple[RowResult, RowResult]]:
    assert meter.labels is not None
    rows, how = [meter.rows[i] for i in places], dict[str, Any](max_new_tokens=meter.longest(), full=meter.full)
    both = answers_and_choices(meter.model, meter.session.tokenizer, rows, meter.labels, meter.metric, **how)
    return list(zip(*both, strict=True))


def _few_shot(meter: Any, places: Sequence[int]) -> list[RowResult]:
    s = meter.session
    shown = few_shot(s.tokenizer, meter.rows, meter.shots().rows, meter.spec.few_shot, s.seed)
    how: dict[str, Any] = {"max_new_tokens": meter.longest(), "scores_only": True}
    return evaluate(meter.model, s.tokenizer, s.task, [shown[i] for i in places], meter.metric, **how)


def _kept(meter: Any, places: Sequence[int], *, name: str) -> list[DocumentLoss]:
    s = meter.session
    texts = [s.keep[name].rows[i] for i in places]
    return losses_by_document(meter.model, s.tokenizer, s.task, texts, packed=s.packed)


def _pack(meter: Any, places: Sequence[int], *, name: str) -> list[RowResult]:
    s = meter.session
    return ask(meter.model, s.tokenizer, s.task, s.packs[name].of_rows(places))


def _drift(meter: Any, places: Sequence[int]) -> list[float]:
    assert meter.reference is not None
    every = list(places) == meter.scored()
    return kl_by_row(meter.reference if every else meter.reference.of_rows(places), meter.model)


def _row(told: dict[str, Any]) -> RowResult:
    return RowResult(**told)


READINGS = {
    "target": Reading(_target, _row),
    "answers": Reading(_answers, lambda told: tuple(_row(one) for one in told)),
    "few_shot": Reading(_few_shot, _row),
    "kept": Reading(_kept, lambda told: DocumentLoss(**told)),
    "pack": Reading(_pack, _row),
    "drift": Reading(_drift, float),
}


class Sharing:
    """What a run's processes read for one another through their meters. Alone, nothing is exchanged."""

    def __init__(self, meter: Any):
        self.meter, self.group = meter, present()
        self._helped = False

    @property
    def divided(self) -> bool:
        """Whether each process holds a part of the model's weights."""
        return self.meter.session.adapted.divided is not None

    def all_know(self, known: bool) -> bool:
        """Whether every process knows what has to be measured otherwise, where none can measure alone."""
        return all(one["known"] for one in self.group.told({"known": known})) if self.divided else known

    def of_first(self, values: dict[str, Any]) -> dict[str, Any]:
        """What the first process knows, JSON values by name, where none can measure alone."""
        return self.group.told(values)[0] if self.divided else values

    def lead(self, work: Callable[[], T], *, helped: bool = True) -> T | None:
        """What `work` gives in the first process, while the others read with it (`helped`: else they wait); None in
        these. Where weights are divided, every process does it all: none can run the model without the others.
        """
        if not self.group.many or self.divided:
            return work()
        if not self.group.first:
            self._help()
            return None
        self._helped = helped
        try:
            result = work()
        finally:
            self._helped = False
        self.group.told({})  # nothing more to read
        return result

    def read(self, what: str, places: Sequence[int], **how: Any) -> list[Any]:
        """A result for each of some items, by their places, with the others' help where this process leads."""
        if not self._helped:
            return self.alone(what, places, **how)
        dialled = self.meter.session.adapted.dialled
        self.group.told({"read": what, "places": list(places), "how": how, "strength": dialled})
        return self._each(what, places, how)

    def alone(self, what: str, places: Sequence[int], **how: Any) -> list[Any]:
        """The same by this process alone: where an item's result depends on those beside it."""
        return list(READINGS[what].of(self.meter, places, **how))

    def together(self, items: Sequence[T], read: Callable[[list[T]], list[RowResult]]) -> list[RowResult]:
        """`read(items)`, where every process comes here with the same items: each reads its own."""
        if not self.group.many or self._helped or self.divided:
            return read(list(items))
        mine = [item for _, item in self.group.share(items)]
        return self._merged(read(mine) if mine else [], len(items), _row)

    def hold(self, sequences: dict[str, Any] | None, tensors: dict[str, Tensor]) -> None:
        """Let the others hold what the base predicted, of `sequences` that the base wrote or else of rows that each
        has.
        """
        if self._helped:
            shapes = {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in tensors.items()}
            self.group.told({"hold": shapes, "sequences": sequences})
            self.group.from_first([t.cpu() for t in tensors.values()])

    def _help(self) -> None:
        adapted = self.meter.session.adapted
        with ExitStack() as dialled:
            strength = None
            while order := self.group.told({})[0]:
                if "hold" in order:
                    tensors = {n: torch.empty(s, dtype=getattr(torch, d)) for n, (s, d) in order["hold"].items()}
                    self.group.from_first(list(tensors.values()))
                    self.meter.hold(order["sequences"], tensors)
                    continue
                if order["strength"] != strength:
                    dialled.close()
                    strength = order["strength"]
                    if strength is not None:
                        dialled.enter_context(adapted.at_strength(strength))
                self._each(order["read"], order["places"], order["how"])

    def _each(self, what: str, places: Sequence[int], how: dict[str, Any]) -> list[Any]:
        reading, mine = READINGS[what], [place for _, place in self.group.share(places)]
        own = reading.of(self.meter, mine, **how) if mine else []
        return self._merged(own, len(places), reading.known)

    def _merged(self, own: Sequence[Any], count: int, known: Callable[[Any], Any]) -> list[Any]:
        told = [one["results"] for one in self.group.told({"results": [_plain(x) for x in own]})]
        return [known(told[i % self.group.size][i // self.group.size]) for i in range(count)]


def _plain(result: Any) -> Any:
    if isinstance(result, tuple):
        return [_plain(one) for one in result]
    if isinstance(result, BaseModel):
        return result.model_dump()
    return vars(result) if isinstance(result, DocumentLoss) else result
