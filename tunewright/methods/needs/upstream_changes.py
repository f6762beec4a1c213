"""upstream_changes: the low-rank changes of other tasks, trained from the same base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.change import Change
from tunewright.contract.method import Need
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.sites import Structure

LEAST = 2


class UpstreamChanges(Need):
    """list[Change]: of earlier stages, runs and adapters, all of the same layers, in the order they are named."""

    name: ClassVar[str] = "upstream_changes"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    names: tuple[str, ...] = Field(description='"stages", "stages.NAME", or folders')

    def check(self, run: Any) -> None:
        self._agreeing(run)

    def compute(self, run: Any, batch: Any = None) -> list[Change]:
        return self._agreeing(run)

    def _agreeing(self, run: Any) -> list[Change]:
        structure: Structure = run.adapted.structure
        if run.changes is None:
            raise MethodError("no changes of other tasks can be read here", where="upstream")
        found: list[Change] = run.changes(self.names)
        if len(found) < LEAST:
            raise MethodError(
                f"{len(found)} upstream task{'' if len(found) == 1 else 's'} say nothing of how tasks differ",
                where="upstream",
                remedy="name more runs, adapters or stages: a handful at least, dozens to draw anything new",
            )
        for change in found:
            _fits(change, structure, run.adapted)
            _agrees(change, found[0])
        return found


def _refused(what: str, remedy: str) -> MethodError:
    return MethodError(what, where="upstream", remedy=remedy)


def _fits(change: Change, structure: Structure, adapted: Any) -> None:
    """MethodError where a change is not one of this model, or holds values that are not finite."""
    sites, own = {s.name: s for s in structure.sites}, adapted.base_parameters()
    for name, (A, B) in change.pairs.items():
        if name not in sites:
            raise _refused(f"'{change.name}' changes '{name}', which this model lacks", did_you_mean(name, sites))
        there = (sites[name].out_features, sites[name].in_features)
        if (B.shape[0], A.shape[1]) != there:
            raise _refused(
                f"'{change.name}' does not fit: its change of '{name}' is {B.shape[0]} x {A.shape[1]}, the layer is "
                f"{there[0]} x {there[1]}",
                "name changes of this base",
            )
    for name, value in change.values.items():
        if name not in own or own[name].shape != value.shape:
            here = f"{list(own[name].shape)} here" if name in own else "not there"
            raise _refused(
                f"'{change.name}' does not fit: its '{name}' is {list(value.shape)}, {here}",
                "name tasks with as many classes as this one",
            )
    for name, tensor in _tensors(change):
        if tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all()):
            raise _refused(f"'{change.name}' holds values of '{name}' that are not finite", "leave it out")
    if left := sorted(set(adapted.new) - set(change.values)):
        raise _refused(
            f"'{change.name}' holds no '{left[0]}', which this model lacks: it would stay as it was drawn",
            "name changes that trained the head, too",
        )


def _tensors(change: Change) -> Sequence[tuple[str, Tensor]]:
    return [*((n, t) for n, pair in change.pairs.items() for t in pair), *change.values.items()]


def _agrees(change: Change, first: Change) -> None:
    for what, ours, theirs in (
        ("layers", change.pairs, first.pairs),
        ("weights of a head", change.values, first.values),
    ):
        if other := sorted(set(ours) ^ set(theirs)):
            alone = change.name if other[0] in ours else first.name
            raise _refused(
                f"'{first.name}' and '{change.name}' change other {what}: '{other[0]}' is in '{alone}' alone",
                "train every upstream task with the same target_modules",
            )
