"""What is done to the tuned weights afterwards: edits of the change, and merges with other models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.method import Method, Needs, arguments
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.runs.merging import check_others, no_score, unfoldable
from tunewright.training import carry
from tunewright.weights.blocks import Learning
from tunewright.weights.learning import copy_with
from tunewright.weights.operator import as_merge, each_of, merge_one
from tunewright.weights.survey import survey

Score = Callable[[], float]
Teach = Callable[[list[nn.Module], nn.Module], Learning]


def apply(
    method: Method, name: str, adapted: Adapted, run: Path, score: Score | None, teach: Teach | None = None
) -> None:
    """Apply one step in place: deltas are folded first, since the result is plain weights.

    `score()` gives the model's validation score as it is (larger is better), for steps that choose. `teach(models,
    base)` gives what a merge learns from: the run's rows beside these models.
    """
    if not adapted.foldable:
        raise unfoldable(name)
    adapted.fold()
    if callable(getattr(method, "edit", None)):
        _edit(method, adapted)
    else:
        _merge(method, name, adapted, run, score, teach)


def _call(method: Method, slot: str, **offered: Any) -> Any:
    return getattr(method, slot)(**{n: offered[n] for n in arguments(type(method), slot) if n in offered})


def _edit(method: Method, adapted: Adapted) -> None:
    parameters = adapted.base_parameters()
    with torch.no_grad():
        for name, original in adapted.originals.items():
            p = parameters[name]
            base = original.restored(p)
            change = p - base
            changed = _call(
                method, "edit", name=name, base=base, change=change, depth=adapted.structure.depth_fraction(name)
            )
            if changed is not change:  # base + (p - base) is not always p
                p.data = (base + changed).to(p.dtype)


def _merge(given: Method, name: str, adapted: Adapted, run: Path, score: Score | None, teach: Teach | None) -> None:
    method = as_merge(given, name)
    check_others(method, name)
    if adapted.operated and method.of:
        raise MethodError(
            f"'{name}' merges with models of the base's own shape, and this run changed its model's shape",
            where="after",
            remedy="export both models and merge them, where their shapes are equal: tunewright merge",
        )
    others = [_values(adapted, of, run, name) for of in method.of]
    own = {
        n: p.detach().clone()
        for n, p in adapted.base_parameters().items()
        if n in adapted.originals or any(n in o for o in others)
    }
    models: list[dict[str, Tensor]] = [own, *others]
    names = sorted({n for m in models for n in m})
    parameters = adapted.base_parameters()
    for n in names:
        adapted.remember(n)
    base = {n: adapted.originals[n].restored(parameters[n]).clone() for n in names}

    known = _known(method, name, adapted, models, base, teach)

    def put(indices: Sequence[int]) -> None:
        with torch.no_grad():
            for n in names:
                tensors = [models[i].get(n, base[n]) for i in indices]
                merged = tensors[0] if len(tensors) == 1 else _one(method, adapted, n, base[n], tensors, known)
                parameters[n].data = merged.to(parameters[n].dtype).clone()

    def scored(indices: tuple[int, ...]) -> float:
        if score is None:
            raise no_score(name)
        put(indices)
        return score()

    picked = method.pick(len(models), scored) if method.picks else tuple(range(len(models)))
    put(picked)


def _one(
    method: Method, adapted: Adapted, name: str, base: Tensor, tensors: Sequence[Tensor], known: dict[str, Any]
) -> Tensor:
    """One tensor of a merge, formed in fp32."""
    depth = adapted.structure.depth_fraction(name)
    return merge_one(method, name, base.float(), [t.float() for t in tensors], depth=depth, needs=Needs(known))


def _known(
    method: Any,
    name: str,
    adapted: Adapted,
    models: list[dict[str, Tensor]],
    base: dict[str, Tensor],
    teach: Teach | None,
) -> dict[str, Any]:
    """What a merge knows before its first tensor: counts over all of them, or what it learned from rows; {} for
    most.
    """
    if not method.learns:
        whole = [{**base, **m} for m in models]
        return survey(
            method,
            lambda: ((n, b.float(), [m[n].float() for m in whole]) for n, b in base.items()),
            each_of(method, len(models)),
        )
    if teach is None:
        raise MethodError(
            f"'{name}' learns from rows, and there are none here",
            where="after",
            remedy="run it in a recipe with training rows",
        )
    known: dict[str, Any] = method.learn(
        teach([copy_with(adapted.model, {**base, **m}) for m in models], copy_with(adapted.model, base))
    )
    if known.get("config"):
        what = (
            f"'{name}' changes the model's shape ({', '.join(known['config'])}), which a run cannot do to its own model"
        )
        raise MethodError(what, where="after", remedy="export both models and merge them: tunewright merge")
    return known


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
