"""Edits of a merged change before it is stored: `tunewright merge ... --then lines`, or `after:` in a merge's file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunewright import catalogue
from tunewright.errors import MethodError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from tunewright.weights.request import Request, Step


def steps_of(given: Any, where: str) -> tuple[Step, ...]:
    """A name, {name: {parameter: value}}, or a list of these. RecipeError for anything else."""
    if given is None:
        return ()
    steps: list[Step] = []
    for step in given if isinstance(given, list) else [given]:
        if isinstance(step, str):
            steps.append((step, {}))
        elif isinstance(step, Mapping) and len(step) == 1 and isinstance(next(iter(step.values())), Mapping | None):
            ((name, parameters),) = step.items()
            steps.append((str(name), dict(parameters or {})))
        else:
            raise RecipeError(
                f"{step!r} is no step", where=where, remedy="write lines, or {lines: {alpha: 0.3, beta: 0.7}}"
            )
    return tuple(steps)


class Then:
    """A merge's edits, built. RecipeError for what is no edit, MethodError for a merge without a base.

    `lines` with `alpha: merge` is fitted to the merge by `survey` before the first tensor.
    """

    def __init__(self, request: Request, base: bool):
        self.where = f"{request.where}: then"
        self.methods = [self._built(name, parameters) for name, parameters in request.then]
        if self.methods and not base:
            raise MethodError(
                f"an edit scales what a merge changed, and '{request.method}' has no base",
                where=self.where,
                remedy="merge by task-arithmetic (with weights that sum to 1 it is the weighted mean), and name --base",
            )

    def _built(self, name: str, parameters: Mapping[str, Any]) -> Any:
        from tunewright.recipe.uses import MethodUse

        entry = catalogue.lookup(catalogue.canonical(name))
        if entry is None or entry.room != "weights/edit":
            known = [n for n, e in catalogue.entries().items() if e.room == "weights/edit"]
            raise RecipeError(f"no edit is named '{name}'", where=self.where, remedy=did_you_mean(name, known))
        return catalogue.build(MethodUse(name=entry.name, params=dict(parameters)), self.where)

    def survey(self, merged: Callable[[], Iterable[tuple[Tensor, Sequence[Tensor], Tensor]]]) -> None:
        """Fit the first edit to the merge, where it asks for that: one pass over all tensors.

        `merged` as in the engine.
        """
        from tunewright.weights.operator import Edit  # needs torch

        for i, m in enumerate(self.methods):
            if not (isinstance(m, Edit) and m.fits_merge):
                continue
            if i:
                raise MethodError(
                    "only the first edit can be fitted to the merge",
                    where=self.where,
                    remedy="write it first, or give it a number",
                )
            plain, own, count = 0.0, 0.0, 0
            for base, models, mixed in merged():
                plain += float(sum((t.double() - base.double() for t in models), base.double() * 0).abs().sum())
                own += float((mixed.double() - base.double()).abs().sum())
                count = len(models)
            self.methods[i] = m.fitted(plain, own, count)

    def apply(self, name: str, base: Tensor | None, mixed: Tensor, depth: float | None) -> Tensor:
        """The merged tensor after all edits; its own bits where they change nothing."""
        from tunewright.contract.method import call

        if not self.methods or base is None:
            return mixed
        change = first = mixed - base
        for m in self.methods:
            change = call(m, "edit", name=name, base=base, change=change, depth=depth)
        return mixed if change is first else base + change
