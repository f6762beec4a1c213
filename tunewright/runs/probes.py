"""Runs a recipe's probes on base and tuned, and gives each result as the report holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from tunewright import catalogue
from tunewright.contract.method import call
from tunewright.measure.drift import take_features
from tunewright.measure.probe import Side
from tunewright.models.adapted import Adapted
from tunewright.recipe.naming import numbered
from tunewright.report.schema import Probe
from tunewright.runs.readings import Readings
from tunewright.runs.session import Session
from tunewright.runs.stages import TrainingOutcome


class Weights(Mapping[str, Tensor]):
    """The parameters as they are after training, or as it began (`tuned` False), made one at a time when asked for.

    Where the model's shape was changed, both are in the new one, so that they can be compared by name.
    """

    def __init__(self, adapted: Adapted, tuned: bool):
        self._adapted, self._tuned = adapted, tuned
        self._names = list(adapted.base_parameters())

    def __getitem__(self, name: str) -> Tensor:
        with self._adapted.at_strength(1.0) if self._tuned else self._adapted.started():
            return self._adapted.base_parameters()[name].detach().clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def run_all(uses: Sequence[Any], session: Session, base: Readings, tuned: Readings) -> dict[str, Probe]:
    """Each probe by its name; the second of one name, with other parameters, is "name-2"."""
    names = numbered([use.name for use in uses])
    return {name: run(use, session, base, tuned) for name, use in zip(names, uses, strict=True)}


def found(session: Session, results: Mapping[str, TrainingOutcome]) -> dict[str, Probe]:
    """What methods found out in their stages, by the method's name; of several stages, with the stage's before it."""
    several = len(session.stages) > 1
    told = {
        f"{part.spec.name}: {name}" if several else name: one
        for part in session.stages
        for name, one in results[part.spec.name].found.items()
    }
    return {
        name: Probe(**{k: v for k, v in one.items() if k not in ("notes", "kept_rows")}) for name, one in told.items()
    }


def _features(session: Session, read: Readings, tuned: bool) -> Tensor:
    """What the head reads of the target's rows, of the tuned model or the untouched base."""
    rows = {row.id: row for row in session.eval.rows} if session.eval is not None else {}
    adapted, own = session.adapted, [rows[r.id] for r in read.target]
    with adapted.at_strength(1.0) if tuned else adapted.base():
        return take_features(adapted.outer, session.task, own).values


def run(use: Any, session: Session, base: Readings, tuned: Readings) -> Probe:
    """One probe. MethodError when it needs what this run does not have."""
    probe: Any = catalogue.build(use)
    adapted, after = session.adapted, tuned
    sides = [
        Side(
            weights=Weights(adapted, tuned) if adapted.foldable else {},
            answers={"target": r.target, "choice": r.choice},
            features=partial(_features, session, r, tuned) if session.task.pools and r.target else None,
        )
        for tuned, r in ((False, base), (True, after))
    ]
    offered = {"base": sides[0], "tuned": sides[1], "structure": adapted.structure}
    result = call(probe, "probe", use.name, **offered)
    return Probe(**result.model_dump())
