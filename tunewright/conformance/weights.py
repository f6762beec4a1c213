"""Checks of methods that turn tensors into tensors: merges of models, edits of a change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.fields import other_values
from tunewright.contract.method import Method, Needs, call
from tunewright.models.agreement import same_bits
from tunewright.weights.operator import Merge, draws_of, each_of
from tunewright.weights.survey import survey

DEPTHS = {"head.weight": None, "blocks.0.weight": 0.0, "blocks.1.weight": 0.5, "blocks.2.weight": 1.0}
"""Tensors of the tiny model with the depth of their blocks."""


def tensors(seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(6, 4, generator=generator).to(device, dtype) for n in DEPTHS}


def apply(
    method: Method, dtype: torch.dtype = torch.float32, first: dict[str, Any] | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Run a method over every tensor of a tiny model. Inputs must come out as they went in.

    A merge gets as many models as it names in `of`, and the run's own; one with `pick` picks first, by a score under
    which any average is worse than the best model. `first`: parameters that the first model alone has.
    """
    base, out = tensors(0, dtype, device), {}
    slot = "merge" if "merge" in type(method).slots() else "edit"
    most = getattr(method, "models", (1, None))[1]
    models = [tensors(1 + i, dtype, device) for i in range(3 + len(getattr(method, "of", ())))][:most]
    if isinstance(method, Merge) and method.picks:
        models = [models[i] for i in method.pick(len(models), lambda chosen: 1.0 / len(chosen) + 0.01 * chosen[0])]
    each = each_of(method, len(models), [first or {}, *({} for _ in models[1:])])
    known = (
        survey(method, lambda: [(n, base[n], [m[n] for m in models]) for n in DEPTHS], each)
        if isinstance(method, Merge)
        else {}
    )
    needs = Needs(known)
    for name, depth in DEPTHS.items():
        offered: dict[str, Any] = {"name": name, "base": base[name], "depth": depth, "needs": needs}
        inputs = [base[name], *(m[name] for m in models)]
        kept = [t.clone() for t in inputs]
        offered |= {"each": each, "rng": draws_of(0, name)}
        offered |= {"tensors": inputs[1:]} if slot == "merge" else {"change": inputs[1]}
        out[name] = call(method, slot, **offered)
        assert all(same_bits(a, b) for a, b in zip(inputs, kept, strict=True)), f"{slot} edited its inputs"
    return out


def keeps_shape_and_type(case: Case) -> None:
    """One tensor out for one place in, of the same shape and type, finite."""
    for dtype in (torch.float32,) if isinstance(case.method, Merge) else (torch.float32, torch.bfloat16):
        for name, t in apply(case.method, dtype).items():
            assert t.shape == (6, 4) and t.dtype == dtype and bool(torch.isfinite(t).all()), (
                f"{name} came out as {tuple(t.shape)} {t.dtype}"
            )


def repeats(case: Case) -> None:
    """The same bits twice, without global randomness."""
    with global_randomness_unchanged():
        a, b = apply(case.method), apply(case.method)
    assert all(same_bits(a[n], b[n]) for n in a), "two equal calls differ"


def every_field_matters(case: Case) -> None:
    """Each parameter, changed alone, changes what comes out."""
    first = apply(case.method)
    most = getattr(case.method, "models", (1, None))[1]
    for field in type(case.method).model_fields:
        if field == "of" and most is not None and most <= 3:
            continue  # as many models as it takes are there already
        others = other_values(case.method, field)
        assert others, f"no other value of '{field}' is known: give the field examples"
        changed = any(not same_bits(first[n], t) for o in others for n, t in _with(case.method, o, field).items())
        assert changed, f"'{field}' changes nothing: tried {[getattr(o, field) for o in others]}"


def _with(method: Method, other: Method, field: str) -> dict[str, Tensor]:
    """What comes out with another value of a field; of a field that models have of their own, in the first one
    alone.
    """
    return (
        apply(method, first={field: getattr(other, field)})
        if field in getattr(method, "per_model", ())
        else apply(other)
    )


def _on_tensors(case: Case) -> bool:
    return bool({"merge", "edit"} & set(case.slots)) and not (isinstance(case.method, Merge) and case.method.learns)


CHECKS = [
    Check("keeps shape and type", _on_tensors, keeps_shape_and_type),
    Check("repeats", _on_tensors, repeats),
    Check("every field matters", _on_tensors, every_field_matters),
]
