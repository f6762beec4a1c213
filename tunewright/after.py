"""What is done to the tuned weights afterwards: edits of the change, and merges with other models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright import carry
from tunewright.errors import MethodError
from tunewright.method import Method, arguments
from tunewright.models.adapted import Adapted

Score = Callable[[], float]


def apply(method: Method, name: str, adapted: Adapted, run: Path, score: Score | None) -> None:
    """Apply one step in place: deltas are folded first, since the result is plain weights.

    `score()` gives the model's validation score as it is (larger is better), for steps that choose.
    """
    if not adapted.foldable:
        raise MethodError(
            f"'{name}' works on plain weights, and this change cannot be folded into them",
            where="after",
            remedy="take the step out, or use a method that folds",
        )
    adapted.fold()
    if callable(getattr(method, "edit", None)):
        _edit(method, adapted)
    else:
        _merge(method, name, adapted, run, score)


def _call(method: Method, slot: str, **offered: Any) -> Any:
    return getattr(method, slot)(**{n: offered[n] for n in arguments(type(method), slot) if n in offered})


def _edit(method: Method, adapted: Adapted) -> None:
    parameters = adapted.base_parameters()
    with torch.no_grad():
        for name, original in adapted.originals.items():
            p = parameters[name]
            base = original.restored(p)
            changed = _call(method, "edit", name=name, base=base, change=p - base, depth=adapted.structure.depth_fraction(name))
            p.data = (base + changed).to(p.dtype)


def _merge(method: Any, name: str, adapted: Adapted, run: Path, score: Score | None) -> None:
    others = [_values(adapted, of, run, name) for of in method.of]
    if not others:
        raise MethodError(f"'{name}' names no other model", where="after", remedy=f"write {name}: {{of: [stages.first, runs/other]}}")
    own = {n: p.detach().clone() for n, p in adapted.base_parameters().items() if n in adapted.originals or any(n in o for o in others)}
    models: list[dict[str, Tensor]] = [own, *others]
    names = sorted({n for m in models for n in m})
    parameters = adapted.base_parameters()
    for n in names:
        adapted.remember(n)
    base = {n: adapted.originals[n].restored(parameters[n]).clone() for n in names}

    def put(indices: Sequence[int]) -> None:
        with torch.no_grad():
            for n in names:
                tensors = [models[i].get(n, base[n]) for i in indices]
                merged = (
                    tensors[0]
                    if len(tensors) == 1
                    else _call(method, "merge", name=n, base=base[n], tensors=tensors, depth=adapted.structure.depth_fraction(n))
                )
                parameters[n].data = merged.to(parameters[n].dtype).clone()

    def scored(indices: tuple[int, ...]) -> float:
        if score is None:
            raise MethodError(
                f"'{name}' chooses by a held-out score, and the recipe holds nothing out", where="data.validation", remedy="write validation: 10%"
            )
        put(indices)
        return score()

    picked = method.pick(len(models), scored) if hasattr(method, "pick") else tuple(range(len(models)))
    put(picked)


def _values(adapted: Adapted, of: str, run: Path, name: str) -> dict[str, Tensor]:
    """Whole tensors that a finished stage changed, by name. The model is left as it was."""
    kept = {n: p.data for n, p in adapted.base_parameters().items()}
    originals = dict(adapted.originals)
    try:
        for p in adapted.base_parameters().values():
            p.data = p.data.clone()
        carry.begin(adapted, of, "fold", run, f"after.{name}")
        parameters = adapted.base_parameters()
        return {n: parameters[n].detach().clone() for n in adapted.originals}
    finally:
        parameters = adapted.base_parameters()
        for n, data in kept.items():
            parameters[n].data = data
        adapted.originals = originals
