"""upstream_modules: low-rank changes that were trained upstream from the same base, under heads of their own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tunewright.contract.change import Change
from tunewright.contract.method import Need
from tunewright.errors import MethodError, did_you_mean


class UpstreamModules(Need):
    """list[Change]: of earlier stages, runs and adapters, in the order they are named; their heads are left out."""

    name: ClassVar[str] = "upstream_modules"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    names: tuple[str, ...] = Field(description='"stages", "stages.NAME", or folders')

    def check(self, run: Any) -> None:
        self._fitting(run)

    def compute(self, run: Any, batch: Any = None) -> list[Change]:
        return self._fitting(run)

    def _fitting(self, run: Any) -> list[Change]:
        if run.changes is None:
            raise MethodError("no changes of other tasks can be read here", where="upstream")
        sites = {s.name: s for s in run.adapted.structure.sites}
        found: list[Change] = run.changes(self.names)
        for change in found:
            for name, (A, B) in change.pairs.items():
                if name not in sites:
                    raise MethodError(
                        f"'{change.name}' changes '{name}', which this model lacks",
                        where="upstream",
                        remedy=did_you_mean(name, sites),
                    )
                there = (sites[name].out_features, sites[name].in_features)
                if (B.shape[0], A.shape[1]) != there:
                    raise MethodError(
                        f"'{change.name}' changes '{name}' by {B.shape[0]} x {A.shape[1]}, and the layer is "
                        f"{there[0]} x {there[1]}",
                        where="upstream",
                        remedy="name changes of this base",
                    )
        return found
