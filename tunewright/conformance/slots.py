"""Checks that what a method fills is called, and that it matters: a slot that is never asked is an option that nothing
reads.
"""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.conformance.bench import (
    MODELS,
    Named,
    Tiny,
    number_tokenizer,
    task_of,
)
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.fields import other_values
from tunewright.conformance.reading import Reads
from tunewright.contract.method import Method, call, torch_generator
from tunewright.contract.selected import Selected
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.errors import MethodError, ModelError
from tunewright.measure.probe import Side
from tunewright.measure.rows import RowResult
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing, same_bits
from tunewright.models.deltas import LowRank
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming
from tunewright.training import carry


class _Beside(Method):
    """A plain low-rank delta, for methods that matter only beside one."""

    def attach(self, site: Site, rng: random.Random) -> LowRank | None:
        plain = site.block is not None and site.kind == "linear"
        return LowRank(*kaiming(site, 2, torch_generator(rng)), 2.0) if plain else None


def spied(method: Method, calls: set[str], without: str | None = None) -> Method:
    """A copy whose slot functions note that they were called; the slot `without` is not filled."""
    kind = type(method)

    def watched(slot: str) -> Any:
        original = getattr(kind, slot)

        @functools.wraps(original)
        def function(self: Method, *given: Any, **named: Any) -> Any:
            calls.add(slot)
            return original(self, *given, **named)

        return function

    body = {slot: watched(slot) for slot in kind.slots() if slot != without}
    about = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    watching: type[Method] = type(kind.__name__, (kind,), {**body, **about})
    if without is not None:
        setattr(watching, without, None)  # noqa: B010  (a slot that is not callable is not filled)
    spy: Method = watching.model_construct(**{n: getattr(method, n) for n in kind.model_fields})
    return spy


def every_slot_is_called(case: Case) -> None:
    """Each training slot that the class fills is asked for at least once."""
    calls: set[str] = set()
    Tiny(_with(case, spied(case.method, calls))).run()
    silent = [s for s in case.slots if s in TRAINING_SLOTS and s not in calls]
    assert not silent, f"never called: {', '.join(silent)}: the method would train and its {silent[0]} be ignored"


def every_slot_matters(case: Case) -> None:
    """Each training slot, taken out alone, makes the run another one, or one that cannot be.

    Where it does not so with the parameters at hand, it is tried beside a plain delta, and with other parameters.
    """
    beside: Named = (("beside", _Beside()),)
    for slot in (s for s in case.slots if s in TRAINING_SLOTS):
        others = [case.replace(m) for field in type(case.method).model_fields for m in other_values(case.method, field)]
        tried = itertools.chain(
            [(case, (), task_of(case.method)), (case, beside, task_of(case.method))],
            ((c, (), task) for c in [case, *others] for task in MODELS),
        )
        assert any(_matters(c, slot, more, task) for c, more, task in tried), (
            f"'{slot}' changes nothing: without it the run is the same"
        )


def _matters(case: Case, slot: str, more: Named, task: str | None) -> bool:
    if more and any("attach" in type(m).slots() or "wrap" in type(m).slots() for _, m in case.named):
        return False
    options: dict[str, Any] = {"task_name": task, "tokenizer": None if slot != "prepare" else number_tokenizer()}
    try:
        whole = Tiny([*more, *_with(case, case.method)], **options).run()
    except (MethodError, ModelError):
        return False  # not with these parameters, or not on this task
    try:
        left = spied(case.method, set(), without=slot)
        named = _with(case, left) if type(left).slots() else [n for n in case.named if n[0] != case.name]
        other = Tiny([*more, *named], **options).run()
        states = [t.loop.state()[0]["methods"] for t in (whole, other)]
        # data of a state too: a later stage or a predictor may read it
        kept = states[0].keys() == states[1].keys() and states[0] != states[1]
        trained = kept or whole.records != other.records or differing(whole.tensors(), other.tensors())
        return bool(trained) or not agrees(whole.logits(), other.logits())
    except Exception:  # noqa: BLE001  (what then fails, for whatever reason, needed the slot)
        return True


def _with(case: Case, method: Method) -> list[tuple[str, Method]]:
    return [(n, method if n == case.name else m) for n, m in case.named]


def is_read_back_from_files(case: Case) -> None:
    """A finished stage, put onto a fresh base, has the tuned weights in every bit and the tuned logits to rounding."""
    t = Tiny(case.named).run()
    tuned = t.logits()
    with tempfile.TemporaryDirectory() as folder:
        carry.save_stage(Path(folder) / "stage", t.adapted, {})
        fresh = Adapted(MODELS[t.task.name](), base_hash=t.adapted.base_hash)
        carry.load_stage(Path(folder) / "stage", fresh)
    with fresh.evaluating(), torch.no_grad():
        again = t.task.forward(fresh.outer, t.probe).logits
    changed = differing(_all_weights(t.adapted), _all_weights(fresh))
    assert not changed, f"read back from its files, these tensors are other ones: {changed[:3]}"
    assert agrees(again, tuned), "read back from its files, the model says something else"


def _all_weights(adapted: Adapted) -> dict[str, Tensor]:
    """The model's with its deltas, and those of the method that wraps it."""
    by = adapted.wrapped_by.state.state_dict() if adapted.wrapped_by else {}
    return {**adapted.model.state_dict(), **{f"wrapper/{n}": t for n, t in by.items()}}


def _is_found_by_name(case: Case) -> bool:
    """A wrapper is made again by its method's name: one that is not installed cannot be."""
    from tunewright.catalogue import lookup

    return fills_training_slots(case) and all("wrap" not in type(m).slots() or lookup(n) for n, m in case.named)


def selects(case: Case) -> None:
    """A selector leaves its input alone, gives the same twice, and valid indices that are not simply all."""
    reads = Reads(case.method)
    records, offered = reads.records, reads.offered
    before = [dict(r) for r in records]
    with global_randomness_unchanged():
        first, again = (call(case.method, "select", **offered, rng=random.Random(0)) for _ in range(2))
    indices = _indices(first)
    assert indices == _indices(again), "two equal calls differ"
    assert [dict(r) for r in records] == before, "records were edited"
    assert indices and len(set(indices)) == len(indices) and all(0 <= i < len(records) for i in indices), (
        f"not different indices of {len(records)} records: {indices}"
    )
    weights = first.weights if isinstance(first, Selected) else first[1] if isinstance(first, tuple) else None
    assert weights is not None or indices != list(range(len(records))), "all records are kept, in their order"


def _indices(indices: Any) -> list[int]:
    if isinstance(indices, Selected):
        indices = indices.indices
    return [int(i) for i in (indices[0] if isinstance(indices, tuple) else indices)]


def predicts(case: Case) -> None:
    """A predictor names its speakers, gives logits of their shape, and not simply those of the tuned model."""
    speakers = case.method.speakers()
    assert "tuned" in speakers, "it does not ask the tuned model: define speakers(self) and name 'tuned' among them"
    generator = torch.Generator().manual_seed(0)
    logits: dict[str, Tensor] = {s: torch.randn(3, 7, generator=generator) for s in speakers}
    kept = {s: t.clone() for s, t in logits.items()}
    given = call(case.method, "predict", logits=logits, state=None)
    assert given.shape == (3, 7) and bool(torch.isfinite(given).all()), f"it gave {tuple(given.shape)} for [3, 7]"
    assert all(same_bits(logits[s], kept[s]) for s in speakers), "logits were edited in place"
    assert not same_bits(given, logits["tuned"]), "it gives the tuned model's own logits"


def _decodes(case: Case) -> bool:
    return "predict" in case.slots and not set(case.slots) & set(TRAINING_SLOTS)


def probes(case: Case) -> None:
    """A probe tells a model from itself and from another one, by their weights or by their answers."""
    sides = [_side(seed) for seed in (0, 1)]
    structure = Adapted(MODELS["text-generation"](0)).structure
    values: Sequence[Any] = [
        call(case.method, "probe", base=sides[0], tuned=tuned, structure=structure).values for tuned in sides
    ]
    assert values[0] != values[1], "it says the same of a model beside itself and beside another"


def _side(seed: int) -> Side:
    """A tiny model's weights, answers of which more or fewer are right than their confidence says, and features that
    tell their rows' classes more or less.
    """
    model, rng = MODELS["text-generation"](seed), random.Random(seed)
    answers = []
    for i in range(60):
        confidence = rng.uniform(0.5, 1.0)
        score = float(rng.random() < confidence ** (1 + 3 * seed))
        notes = {"blocks": 1 + (i + seed) % 2, "scale 1": score + seed, "scale 2": score}
        told = {"source": "tiny", "reference": "ab"[i % 2], "notes": notes}
        answers.append(RowResult(id=f"{i}", score=score, confidence=confidence, **told))
    weights = {n: p.detach() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(60, 4, generator=generator)
    features[:, 0] += torch.arange(60) % 2 * (3.0 - 3 * seed)
    return Side(weights=weights, answers={"target": answers, "choice": answers}, features=lambda: features)


CHECKS = [
    Check("every slot is called", fills_training_slots, every_slot_is_called),
    Check("every slot matters", fills_training_slots, every_slot_matters),
    Check("is read back from files", _is_found_by_name, is_read_back_from_files),
    Check("selects", lambda case: "select" in case.slots, selects),
    Check("predicts", _decodes, predicts),
    Check("probes", lambda case: "probe" in case.slots, probes),
]
