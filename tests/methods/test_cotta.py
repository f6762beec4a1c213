"""CoTTA against two networks written out by hand, and each of its three parts alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import MODELS, rows_of
from tunewright.contract.method import row_rng
from tunewright.contract.unlabelled import Unlabelled
from tunewright.measure.adapting import Stream
from tunewright.methods.test_time.cotta import CoTTA, followed, restored
from tunewright.models.adapted import Adapted
from tunewright.pieces.entropies import cross_entropy
from tunewright.pieces.views import many
from tunewright.tasks import get_task

TASK = get_task("image-classification")


def rows(count: int = 6, source: str = "stream") -> list[Any]:
    return rows_of(TASK, source, count)


def stream(make: Any = deep, task: Any = TASK, **fields: Any) -> Stream:
    return Stream("cotta", CoTTA(**{"views": 2, **fields}), Adapted(make()), task)


def teacher(s: Stream) -> dict[str, Tensor]:
    return {n: s.method_state.get(n) for n in s.moving.parameters}


def test_three_batches_are_those_of_a_student_and_a_teacher_written_out() -> None:
    """Without restore: torch's own Adam on one copy, the average on another, the views made here."""
    ema, rate = 0.8, 5e-3
    student = deep()
    slow = copy.deepcopy(student)
    adam = torch.optim.Adam(student.parameters(), lr=rate)
    with stream(threshold=1.0, views=3, restore=0.0, ema=ema, learning_rate=rate) as s:
        for source in ("one", "two", "three"):
            batch = TASK.collate(rows(source=source))
            with torch.no_grad():
                expected = torch.stack([slow(**v.inputs).logits for v in views_of(s, rows(source=source), 3)]).mean(0)
            given = s.answer(rows(source=source))
            assert torch.allclose(given, expected, atol=1e-3), source
            loss = -(expected.softmax(-1) * student(**batch.inputs).logits.log_softmax(-1)).sum(-1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                for a, b in zip(slow.parameters(), student.parameters(), strict=True):
                    a.copy_(ema * a + (1 - ema) * b)
        # the step of an entry whose gradient is all rounding has a direction of its own: few entries may differ
        for mine, theirs in ((s.moving.values(), student), (teacher(s), slow)):
            apart = torch.cat([(p - q).abs().flatten() for p, q in zip(mine.values(), _named(theirs), strict=True)])
            assert float((apart < 1e-5).float().mean()) > 0.95


def views_of(s: Stream, some: list[Any], count: int) -> list[Any]:
    """The views that the method makes of these rows."""
    rngs = [row_rng(0, "cotta", 0, r.id) for r in some]
    batch = Unlabelled.of(TASK.collate(some))
    changes = s.method._changes()  # type: ignore[attr-defined]
    return [many(batch, changes, 1, rngs.__getitem__) for _ in range(count)]


def _named(model: Any) -> list[Tensor]:
    return [p.detach() for _, p in sorted(model.named_parameters())]


def test_the_teacher_is_the_average_of_what_the_student_was_before_it_was_restored() -> None:
    with stream(threshold=1.0, restore=1.0, ema=0.5, learning_rate=0.05) as s:
        s.answer(rows())
        assert all(torch.equal(p, s.moving.source[n]) for n, p in s.moving.parameters.items()), "all of it went back"
        moved = {n: t - s.moving.source[n] for n, t in teacher(s).items()}
    largest = max(float(m.abs().max()) for m in moved.values())
    assert largest == pytest.approx(0.025, rel=0.05), "half of Adam's first step, of what was not restored"


def test_the_average_and_the_restored_entries_by_themselves() -> None:
    assert torch.equal(followed(torch.tensor([1.0]), torch.tensor([3.0]), 0.75), torch.tensor([1.5]))
    weight, source = torch.ones(200, 300), torch.zeros(200, 300)
    back = restored(weight, source, 0.1, torch.Generator().manual_seed(0))
    assert float(1 - back.mean()) == pytest.approx(0.1, abs=0.01)
    assert set(back.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(restored(weight, source, 0.0, torch.Generator()), weight)


def test_another_batch_restores_other_entries_and_the_optimizer_goes_on() -> None:
    with stream(threshold=1.0, restore=0.3, learning_rate=0.05) as s:
        went_back = []
        for source in ("one", "two"):
            s.answer(rows(source=source))
            name = max(s.moving.source, key=lambda n: s.moving.source[n].numel())
            went_back.append(s.moving.parameters[name].detach() == s.moving.source[name])
        assert 0.2 < float(went_back[0].float().mean()) < 0.4
        assert not torch.equal(*went_back) and s.moving.optimizer is not None
        steps = {int(e["step"]) for e in s.moving.optimizer.state_dict()["state"].values()}
    assert steps == {2}


def test_views_are_averaged_only_where_the_source_is_unsure() -> None:
    counts, answers = {}, {}
    for name, threshold in (("sure", 0.0), ("unsure", 1.0)):
        with stream(threshold=threshold, views=5) as s:
            answers[name] = s.answer(rows())
            counts[name] = s.forward.calls
    assert counts == {"sure": 3, "unsure": 2 + 5}
    assert not torch.allclose(answers["sure"], answers["unsure"], atol=1e-3)


def test_the_student_follows_the_teacher_and_not_itself() -> None:
    z, y = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    cross_entropy(y, z).sum().backward()
    assert y.grad is None and torch.allclose(z.grad, z.softmax(-1) - y.softmax(-1), atol=1e-6)


def test_every_parameter_may_move_and_batch_norm_keeps_its_statistics() -> None:
    with stream(convolutional) as s:
        assert set(s.moving.parameters) == {n for n, _ in s.adapted.model.named_parameters()}
        kept = {n: b.clone() for n, b in s.adapted.model.named_buffers()}
        s.answer(rows())
        assert all(torch.equal(kept[n], b) for n, b in s.adapted.model.named_buffers())


def test_texts_are_adapted_to_by_views_that_leave_tokens_unread() -> None:
    task = get_task("text-classification")
    some = rows_of(task, "stream", 5)
    answers = []
    for drop in (0.0, 0.6):
        with stream(MODELS["text-classification"], task, threshold=1.0, drop=drop) as s:
            answers.append(s.answer(some))
    with torch.no_grad():
        untouched = MODELS["text-classification"]()(**task.collate(some).inputs).logits
    assert torch.allclose(answers[0], untouched, atol=1e-5), "with every token read each view is the row"
    assert not torch.allclose(answers[1], untouched, atol=1e-3)
