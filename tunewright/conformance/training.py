"""Checks of methods that take part in training, through the real loop on the tiny set-up."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.conformance.bench import Tiny
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.fields import other_values
from tunewright.contract.batch import Row
from tunewright.models.agreement import agrees, differing, same_bits
from tunewright.models.delta_names import is_delta
from tunewright.models.modes import set_training

TOLERANCE = 1e-4
"""Largest difference, relative to the largest number compared, of two ways to compute the same in fp32."""


def tiny(case: Case, **options: Any) -> Tiny:
    return Tiny(case.named, **options)


def close(a: Tensor, b: Tensor, what: str) -> None:
    gap = float((a - b).abs().max())
    limit = TOLERANCE * max(1.0, float(b.abs().max()))
    assert gap <= limit, f"{what}: differ by {gap:.2e}, more than {limit:.0e}"


def base_logits(t: Tiny) -> Tensor:
    """What the untouched model says: a fresh one, with its own module classes."""
    return t.logits(t.fresh())


def starts_as_identity(case: Case) -> None:
    """Set up and before the first step, the model says what the base says."""
    t = tiny(case)
    close(t.logits(), base_logits(t), "logits at the start and the base's")


def something_trains(case: Case) -> None:
    """Three steps change what the model says, or a method that owns nothing would be an option that nothing reads."""
    t = tiny(case)
    start = t.logits()  # of the same copy: another one may differ in the last bits by where its memory lies
    assert not same_bits(t.run().logits(), start), "after training the model still says exactly what it said before"


def base_comes_back(case: Case) -> None:
    """Switched off, the base comes back, its weights in every bit and its outputs to rounding; then the tuned model."""
    t = tiny(case).run()
    tuned, base = t.logits(), base_logits(t)
    with t.adapted.base() as model:
        assert agrees(t.logits(model), base), "switched off, the model does not say what the base says"
        changed = [n for n, p in t.adapted.base_parameters().items() if not same_bits(p, t.base[n])]
        assert not changed, f"switched off, these tensors are not the base's: {changed[:3]}"
    assert same_bits(t.logits(), tuned), "after switching off and on the tuned model is another one"
    t.adapted.forget_changes()
    assert not t.adapted.deltas() and agrees(t.logits(t.adapted.model), base), "the base does not come back for good"
    changed = differing(t.adapted.model.state_dict(), t.base)
    assert not changed, f"these tensors of the base do not come back for good: {changed[:3]}"


def folds_as_declared(case: Case) -> None:
    """What folds gives the same logits folded; what does not says so."""
    t = tiny(case).run()
    if not case.method.folds:
        assert not t.adapted.foldable, "declared not to fold, but every change here folds: set folds = True"
        return
    tuned = t.logits()
    with t.adapted.at_strength(1.0) as model:
        close(t.logits(model), tuned, "folded and unfolded")
    t.adapted.fold()
    assert not t.adapted.deltas() and not any(is_delta(n) for n in t.adapted.model.state_dict()), (
        "a delta is left after folding"
    )
    close(t.logits(t.adapted.model), tuned, "folded for good and unfolded")


def resumes_bit_for_bit(case: Case) -> None:
    """Stopped after any step, written, read and continued: the same weights, optimizer and states in every bit."""
    whole = tiny(case, keep=(1, 2, 3)).run()
    expected, data = whole.tensors(), whole.loop.state()[0]
    for step, saved in whole.saved.items():
        again = whole.resumed(saved)
        wrong = differing(expected, again.tensors())
        assert not wrong, f"resumed after step {step}, these differ: {wrong[:3]}"
        assert again.loop.state()[0]["methods"] == data["methods"], (
            f"resumed after step {step}, the method's own state differs"
        )
        assert [r["loss"] for r in again.records] == [r["loss"] for r in whole.records[step:]]


def micro_steps_agree(case: Case) -> None:
    """A step's gradient does not depend on how its rows are split, with dropout off."""
    gradients: list[dict[str, Any]] = []
    micro: int | None = None
    for _ in range(2):
        t = tiny(case, micro_tokens=micro, dropout=False)
        set_training(t.adapted.model)
        rows, _ = t.loop.take()
        assert micro is None or len(t.loop.micro_batches(rows)) > 1
        record = t.loop.gradients(rows)
        gradients.append({**t.loop.trained.gradients(), "the loss": torch.tensor(record["loss"])})
        micro = min(8, sum(row.size for row, _ in rows) // 2)  # a picture counts as one token
    for name, g in gradients[0].items():
        close(gradients[1][name], g, f"{name} in one batch and in micro-batches")


def leaves_randomness_alone(case: Case) -> None:
    """No global generator is read or seeded, from set-up to folding."""
    Tiny([])
    with global_randomness_unchanged():
        t = tiny(case).run()
        with t.adapted.at_strength(0.5):
            pass


def _plain(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Any]]:
    """Rows as what can be compared: arrays among their fields as bytes."""

    def of(value: Any) -> Any:
        return value.tobytes() if hasattr(value, "tobytes") else value

    return {n: [r.replace(fields={k: of(v) for k, v in r.fields.items()}) for r in given] for n, given in rows.items()}


def leaves_the_callers_objects_alone(case: Case) -> None:
    """Rows, the batch, and the method itself are as they were."""
    t = tiny(case)
    before = (
        copy.deepcopy(_plain(t.rows)),
        case.method.model_dump_json(),
        {n: x.clone() for n, x in t.probe.inputs.items()},
    )
    t.run().logits()
    assert _plain(t.rows) == before[0], "rows of the data were edited"
    assert case.method.model_dump_json() == before[1], "the method's own parameters changed while training"
    assert all(torch.equal(x, before[2][n]) for n, x in t.probe.inputs.items()), "a batch was edited in place"


def repeats_bit_for_bit(case: Case) -> None:
    """Run twice, the same comes out, in every bit."""
    a, b = tiny(case).run(), tiny(case).run()
    wrong = differing(a.tensors(), b.tensors())
    assert not wrong and a.records == b.records, f"two equal runs differ: {wrong[:3]}"


def every_field_matters(case: Case) -> None:
    """Each parameter, changed alone, changes what comes out or what is logged."""
    first = tiny(case).run()
    for field in type(case.method).model_fields:
        others = other_values(case.method, field)
        assert others, f"no other value of '{field}' is known: give the field examples"
        assert any(_differs(first, tiny(case.replace(o)).run()) for o in others), (
            f"'{field}' changes nothing: tried {[getattr(o, field) for o in others]}"
        )


def _differs(a: Tiny, b: Tiny) -> bool:
    rows = [t.loop.stage.rows.state() for t in (a, b)]
    trained = a.records != b.records or rows[0] != rows[1] or bool(differing(a.tensors(), b.tensors()))
    return trained or not same_bits(a.logits(), b.logits())  # a wrapper may answer otherwise by the same tensors


def _identical(case: Case) -> bool:
    return fills_training_slots(case) and case.method.identity and type(case.method).conformance_stages == 1


CHECKS = [
    Check("starts as the identity", _identical, starts_as_identity),
    Check("something trains", fills_training_slots, something_trains),
    Check("the base comes back", fills_training_slots, base_comes_back),
    Check("folds as declared", fills_training_slots, folds_as_declared),
    Check("resumes bit for bit", fills_training_slots, resumes_bit_for_bit),
    Check("micro-steps agree", fills_training_slots, micro_steps_agree),
    Check("repeats bit for bit", fills_training_slots, repeats_bit_for_bit),
    Check("leaves global randomness alone", fills_training_slots, leaves_randomness_alone),
    Check("leaves the caller's objects alone", fills_training_slots, leaves_the_callers_objects_alone),
    Check("every field matters", fills_training_slots, every_field_matters),
]
