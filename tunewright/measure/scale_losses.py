"""Losses of a next-scale model by the map that its codes belong to: where is a picture predicted worse, or better now?

It reads what is noted of each evaluated row (`tasks._next_scale`): the mean cross-entropy of the codes of each map, in
nats, with the true coarser maps before it. Tian et al. 2024 (arXiv:2404.02905, section 5.1) fit their laws to the loss
over all maps and to that of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.measure.intervals import Interval, bootstrap_mean
from tunewright.measure.probe import ProbeResult, Side, Value
from tunewright.measure.rows import RowResult
from tunewright.tasks._next_scale import NOTE


class ScaleLosses(Method):
    """Cross-entropy of the codes of each map, from the coarsest to the finest, of base and tuned model."""

    papers: ClassVar[tuple[str, ...]] = ("var",)

    def probe(self, base: Side, tuned: Side) -> ProbeResult:
        """The change of each map's loss with its interval over rows. MethodError where no row has such losses."""
        before, after = _by_scale(base), _by_scale(tuned)
        if not before or before.keys() != after.keys():
            raise MethodError(
                "the model notes no losses of maps of its rows",
                where="scale-losses",
                remedy="use it with a next-scale model (unconditional-image-generation, text-to-image)",
            )
        values: dict[str, Value | Interval] = {}
        rows: list[list[Value]] = []
        for side in sorted(before):
            pairs = list(zip(before[side], after[side], strict=True))
            change = bootstrap_mean([b - a for a, b in pairs])
            values[f"change_at_{side}"] = change
            first, last = (sum(losses) / len(losses) for losses in (before[side], after[side]))
            rows.append([f"{side} x {side}", side * side, first, last, change.value])
        return ProbeResult(
            title="Losses by map",
            description="Mean cross-entropy of the codes of each map, nats per code, with the true coarser maps before "
            "it; the changes have intervals over rows.",
            values=values,
            columns=["map", "codes", "base", "tuned", "change"],
            rows=rows,
        )


def _by_scale(side: Side) -> dict[int, list[float]]:
    """Side of a map -> each row's loss there, of the maps that every row has."""
    answers: Sequence[RowResult] = side.answers.get("target", ())
    named = {n for a in answers for n in a.notes if n.startswith(f"{NOTE} ")}
    shared = [n for n in named if all(n in a.notes for a in answers)]
    return {int(n.removeprefix(f"{NOTE} ")): [a.notes[n] for a in answers] for n in shared}
