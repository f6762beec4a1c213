"""Serves what methods ask for: each need once, whoever asked; a need that cannot be served is refused at plan time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.contract.batch import Batch, Row
from tunewright.contract.change import Change
from tunewright.contract.combining import Bound, Methods
from tunewright.contract.method import Need
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted


@dataclass
class NeedContext:
    """What a need may use: the model at the stage's start, rows by source name, other models, a cache folder.

    `rows` maps "train", "keep", "validation" ... to encoded rows, never those that the run is measured on; `other`
    loads one of the recipe's `models` by its name, frozen, once; `as_judge` loads it as a reward model. `changes` reads
    low-rank changes by the names of stages and folders. `data_hashes` name the rows, for cache keys.
    """

    adapted: Adapted
    task: Any
    seed: int
    rows: Mapping[str, list[Row]] = field(default_factory=dict)
    data_hashes: Mapping[str, str] = field(default_factory=dict)
    other_names: tuple[str, ...] = ()
    other: Callable[[str], Adapted] | None = None
    as_judge: Callable[[str], Any] | None = None
    changes: Callable[[Sequence[str]], list[Change]] | None = None
    cache: Path | None = None
    device: str = "cpu"
    packed: bool = False

    def batches(self, source: str, samples: int, tokens: int = 2048) -> Iterator[Batch]:
        """`samples` rows of a source, drawn without replacement by (seed, source), in batches of about `tokens`."""
        rows = list(self.source(source))
        picked = random.Random(f"{self.seed}/needs/{source}").sample(rows, min(samples, len(rows)))
        group: list[Row] = []
        for row in picked:
            if group and sum(r.size for r in group) + row.size > tokens:
                yield self.task.collate(group, self.packed, seed=self.seed).to(self.device)
                group = []
            group.append(row)
        if group:
            yield self.task.collate(group, self.packed, seed=self.seed).to(self.device)

    def source(self, name: str) -> list[Row]:
        """Rows of one source; MethodError with what there is when it is missing or empty."""
        if name == "eval":
            raise MethodError(
                "a method reads the rows that the run is measured on: what trains or chooses must not see them",
                where="needs, source eval",
                remedy="write data.validation: 10%, and let it read validation",
            )
        if not self.rows.get(name):
            raise MethodError(
                f"a method needs rows of '{name}', and the recipe gives none",
                where="needs",
                remedy=f"add `{name}:` to the recipe; {did_you_mean(name, [k for k, v in self.rows.items() if v])}",
            )
        return list(self.rows[name])

    def with_loss(self, name: str, *, alone: bool = False) -> list[Row]:
        """Rows of one source whose loss is read, `alone` each by itself. MethodError where there is no such loss: of
        kept text that is only turned into vectors, and of a row alone whose loss reads the others.
        """
        rows = self.source(name)
        if self.task.couples == "batch" and alone:
            raise MethodError(
                f"a method reads the loss of each row by itself, and in {self.task.name} a row's loss reads the others",
                where="needs",
                remedy="take a method that reads no Fisher information",
            )
        if self.task.embeds and name == "keep":
            raise MethodError(
                f"a method reads the loss of kept text, and in {self.task.name} a text alone has none",
                where="needs",
                remedy="let it read train (its parameter source), or take another method",
            )
        return rows

    def model(self, name: str) -> Adapted:
        """One of the recipe's other models, frozen; MethodError with the line to write when it is not named."""
        if self.other is None or name not in self.other_names:
            raise self._unnamed(name)
        return self.other(name)

    def judge(self, name: str) -> Any:
        """One of the recipe's other models as a `training.judging.Judge`; MethodError as in `model`."""
        if self.as_judge is None or name not in self.other_names:
            raise self._unnamed(name)
        return self.as_judge(name)

    def _unnamed(self, name: str) -> MethodError:
        return MethodError(
            f"a method needs the model '{name}', and the recipe names none",
            where="models",
            remedy=f"write models: {{{name}: ./folder-or-hub-id}}",
        )


class Provider:
    """Computes needs of one stage."""

    def __init__(self, context: NeedContext):
        self.context = context
        self._statistics: dict[Need, Any] = {}
        self._batch: tuple[Batch | None, dict[Need, Any]] = (None, {})

    def check(self, methods: Methods) -> None:
        """Refuse at plan time what cannot be served."""
        for b in methods:
            for need in b.method.needs():
                try:
                    need.check(self.context)
                except MethodError as e:
                    e.where = f"'{b.name}', {e.where}" if e.where else f"'{b.name}'"
                    raise

    def statistics(self, bound: Bound, when: str = "once") -> dict[str, Any]:
        """A method's statistics, each computed once from the weights the stage starts with; those that its `prepare`
        reads ("prepare") from the weights that are there then, since another method may have changed their shape.
        """
        values = {}
        for need in bound.method.needs():
            if need.when == when == "prepare":
                with self.context.adapted.evaluating():
                    values[need.name] = need.compute(self.context)
            elif need.when == when:
                if need not in self._statistics:
                    with self.context.adapted.evaluating():
                        self._statistics[need] = need.compute(self.context)
                values[need.name] = self._statistics[need]
        return values

    def signals(self, bound: Bound, batch: Batch | None, when: str) -> dict[str, Any]:
        """A method's signals for one micro-batch ("batch"), one drawing ("redraw") or a stage's end ("end")."""
        needs = [n for n in bound.method.needs() if n.when == when]
        if not needs:
            return {}
        if batch is None or self._batch[0] is not batch:  # the batch itself is held: an id may be used again
            self._batch = (batch, {})
        values = self._batch[1]
        told: dict[str, Any] = {}
        for need in needs:
            if need.reads_state:
                # another method's state would give another value: computed for this one alone
                told[need.name] = need.compute(self.context, batch, bound.state)  # type: ignore[call-arg]
                continue
            if need not in values:
                values[need] = need.compute(self.context, batch)
            told[need.name] = values[need]
        return told
