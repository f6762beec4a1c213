"""Checks of merges that learn from rows: on whole tiny models, since single tensors tell them nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tunewright.conformance.bench import MODELS, token_rows
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.fields import other_values
from tunewright.contract.method import Method
from tunewright.models.agreement import same_bits
from tunewright.models.sites import discover
from tunewright.tasks import get_task
from tunewright.weights.blocks import Learning, merge_in_memory, state_of
from tunewright.weights.operator import Merge


def apply(
    method: Method, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Merge two tiny models of one base on eight rows."""
    task = get_task("text-generation")
    base, *models = (MODELS[task.name](seed).to(device, dtype) for seed in range(3))
    rows = token_rows("learning", 8)
    learning = Learning(
        models,
        discover(base),
        lambda n: [task.collate(rows[i : i + 4]).to(device) for i in range(0, min(n, 8), 4)],
        task,
        base=base,
    )
    return merge_in_memory(method, learning)


@lru_cache(maxsize=4)
def _first(kind: type[Method], fields: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return apply(kind.model_validate_json(fields))


def _plain(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return _first(type(case.method), case.method.model_dump_json())


def gives_a_model(case: Case) -> None:
    """Every tensor of the base, in its type, finite; widths change only where the config says so."""
    base = state_of(MODELS["text-generation"](0))
    for dtype in (torch.float32, torch.bfloat16):
        tensors, config = apply(case.method, dtype) if dtype != torch.float32 else _plain(case)
        assert tensors.keys() == base.keys(), f"tensors missing or new: {sorted(tensors.keys() ^ base.keys())}"
        for name, t in tensors.items():
            assert t.dtype == dtype and bool(torch.isfinite(t).all()), f"{name} came out as {t.dtype}, or not finite"
            assert config or t.shape == base[name].shape, (
                f"{name} came out as {tuple(t.shape)}, and no change of the config was given"
            )


def repeats(case: Case) -> None:
    """The same bits twice, without global randomness."""
    first = _plain(case)[0]
    with global_randomness_unchanged():
        again = apply(case.method)[0]
    assert all(same_bits(first[n], t) for n, t in again.items()), "two equal calls differ"


def every_field_matters(case: Case) -> None:
    """Each parameter, changed alone, changes what comes out."""
    first = _plain(case)[0]
    for field in type(case.method).model_fields:
        if field in Merge.model_fields:
            continue  # which models: the models here are given
        others = other_values(case.method, field)
        assert others, f"no other value of '{field}' is known: give the field examples"
        changed = any(
            t.shape != first[n].shape or not same_bits(first[n], t) for o in others for n, t in apply(o)[0].items()
        )
        assert changed, f"'{field}' changes nothing: tried {[getattr(o, field) for o in others]}"


def learns(case: Case) -> bool:
    """Whether a method is a merge that learns from rows."""
    return "merge" in case.slots and isinstance(case.method, Merge) and case.method.learns


CHECKS = [
    Check("gives a model", learns, gives_a_model),
    Check("repeats, learning", learns, repeats),
    Check("every field matters, learning", learns, every_field_matters),
]
