"""unic: which teachers a row keeps, the loss by its formula, the ladder, the features' statistics, and who trains."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import text_rows
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Row
from tunewright.contract.method import Needs, State
from tunewright.contract.needs import NeedContext
from tunewright.errors import MethodError, RecipeError
from tunewright.methods.distillation.unic import DRAWS, Unic, kept_teachers, ladder
from tunewright.methods.needs.feature_statistics import FeatureStatistics
from tunewright.methods.needs.hidden_widths import HiddenWidths
from tunewright.methods.needs.teachers_states import TeachersStates
from tunewright.models.adapted import Adapted
from tunewright.pieces.features import states_at
from tunewright.pieces.means import row_means
from tunewright.tasks import get_task

TASK = get_task("text-generation")
TWO = ("a", "b")


def context(student, teachers, rows=None) -> NeedContext:
    held = {name: Adapted(model) for name, model in teachers.items()}
    return NeedContext(
        Adapted(student), TASK, 0, {"train": rows or text_rows(6)}, other_names=tuple(held), other=held.__getitem__
    )


def begun(method: Unic, run: NeedContext) -> State:
    state = method.setup(None)  # type: ignore[arg-type]
    widths = HiddenWidths(models=("", *method.teachers)).compute(run)
    method.begin_task(Needs({"hidden_widths": widths}), state, random.Random(0))
    return state


def told(method: Unic, run: NeedContext, state: State, rows=None):
    """(row losses, batch, outputs), draws made as the loop makes them."""
    batch = TASK.collate(rows or text_rows(6))
    batch = method.batch(batch, lambda i: random.Random(batch.row_ids[i])) or batch
    outputs = TASK.forward(run.adapted.model, batch, hidden=True)
    values = {"teachers_states": TeachersStates(models=method.teachers).compute(run, batch)}
    if method.standardize:
        values["feature_statistics"] = FeatureStatistics(models=method.teachers, rows=method.rows).compute(run)
    return method.objective(outputs, batch, Needs(values), state).value, batch, outputs


def test_the_teacher_that_is_matched_worst_is_never_dropped_and_others_by_their_draw():
    losses = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.5]], requires_grad=True)
    draws = torch.tensor([[0.4, 0.0, 0.6], [0.0, 0.7, 0.5]])
    assert kept_teachers(losses, draws, 0.5).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert kept_teachers(losses, draws, 0.0).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert kept_teachers(losses, draws, 1.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert not kept_teachers(losses, draws, 0.5).requires_grad
    many = torch.rand(2, 20_000, 4, generator=torch.Generator().manual_seed(1))
    kept = kept_teachers(many[0], many[1], 0.3).sum(1)
    assert float(kept.mean()) == pytest.approx(1 + 3 * 0.7, abs=0.03), (
        "what a row is divided by is what it keeps on average"
    )


def test_rows_are_means_over_their_places():
    assert row_means(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2]), 4).tolist() == [1.0, 0.0, 4.0, 0.0]


@pytest.mark.parametrize("drop", [0.0, 0.5, 1.0])
def test_the_loss_is_the_formula(drop):
    method = Unic(teachers=TWO, drop=drop, cosine=0.3, standardize=False)
    run = context(tiny.llama(), {"a": tiny.llama(seed=1), "b": tiny.llama(seed=2, hidden=48, layers=3)})
    state = begun(method, run)
    found, batch, outputs = told(method, run, state)
    expected = torch.zeros(len(batch.row_ids))
    rows = batch.rows
    for r in range(len(expected)):
        per_teacher = []
        for k, name in enumerate(TWO):
            teacher = TASK.forward(run.other(name).model, batch, hidden=True)
            total = 0.0
            for n in (rows == r).nonzero()[:, 0].tolist():
                made = sum(state.ladders[k][i](states_at(outputs, batch, i + 1)[n]) for i in range(2))
                goal = states_at(teacher, batch, -1)[n]
                total += 0.3 * (1 - F.cosine_similarity(made, goal, dim=0)) + 0.7 * F.smooth_l1_loss(made, goal)
            per_teacher.append(total / int((rows == r).sum()))
        worst = 0 if per_teacher[0] > per_teacher[1] else 1
        kept = [k == worst or drop == 0 or float(batch.fields[DRAWS][r, k]) >= drop for k in range(2)]
        expected[r] = sum(x for x, keep in zip(per_teacher, kept, strict=True) if keep) / (2 - drop)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_one_teacher_is_never_dropped_and_draws_nothing():
    method = Unic(teachers=("a",), drop=1.0)
    run = context(tiny.llama(), {"a": tiny.llama(seed=1)})
    value, batch, _ = told(method, run, begun(method, run))
    assert DRAWS not in batch.fields and float(value.detach().min()) > 0


def test_a_batch_that_is_split_gives_the_same_rows():
    method, rows = Unic(teachers=TWO), text_rows(6)
    run = context(tiny.llama(), {"a": tiny.llama(seed=1), "b": tiny.llama(seed=2)})
    state = begun(method, run)
    whole = told(method, run, state, rows)[0]
    parts = torch.cat([told(method, run, state, rows[i : i + 2])[0] for i in (0, 2, 4)])
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_the_ladder_reads_every_layer_or_the_last_and_starts_small():
    run = context(tiny.llama(layers=3), {"a": tiny.llama(seed=1, hidden=48)})
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in begun(Unic(teachers=("a",), hidden=16), run).ladders[0]]
    assert shapes == [[(16, 32), (16,), (48, 16), (48,)]] * 2 + [[(128, 32), (128,), (48, 128), (48,)]]
    last = begun(Unic(teachers=("a",), ladder="last", last_hidden=8), run)
    assert last.data["layers"] == [3] and [tuple(p.shape) for p in last.ladders[0].parameters()] == [
        (8, 32),
        (8,),
        (48, 8),
        (48,),
    ]
    mlp = ladder([200], 300, [400], torch.Generator().manual_seed(0))[0]
    assert [type(m) for m in mlp] == [nn.Linear, nn.GELU, nn.Linear]
    assert (
        float(mlp[0].weight.detach().std()) == pytest.approx(0.02, rel=0.01)
        and not mlp[0].bias.any()
        and not mlp[2].bias.any()
    )
    again = ladder([200], 300, [400], torch.Generator().manual_seed(0))[0]
    assert torch.equal(mlp[2].weight, again[2].weight)


def test_statistics_are_those_of_all_places_of_the_first_rows():
    rows = text_rows(40)
    run = context(tiny.llama(), {"a": tiny.llama(seed=1), "b": tiny.llama(seed=2, hidden=48)}, rows)
    found = FeatureStatistics(models=TWO, rows=20).compute(run)
    batch = TASK.collate(rows[:20])
    for name in TWO:
        states = states_at(TASK.forward(run.other(name).model, batch, hidden=True), batch, -1).detach()
        torch.testing.assert_close(found[name][0], states.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[name][1], states.std(0, correction=0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found["a"][0], FeatureStatistics(models=TWO).compute(run)["a"][0])
    inner = states_at(TASK.forward(run.other("a").model, batch, hidden=True), batch, 1).detach()
    assert torch.equal(TeachersStates(models=("a",), layer=1).compute(run, batch)[0], inner)
    torch.testing.assert_close(
        FeatureStatistics(models=("a",), layer=1, rows=20).compute(run)["a"][0], inner.mean(0), atol=1e-5, rtol=1e-4
    )
    one = Row("r:1", "train", [5, 6, 7], [0.0, 0.0, 1.0])
    with pytest.raises(MethodError, match="1 training rows give 1 places"):
        FeatureStatistics(models=("a",)).compute(
            NeedContext(run.adapted, TASK, 0, {"train": [one]}, other_names=("a",), other=run.other)
        )


def test_a_standardized_teacher_may_be_scaled_and_moved_without_a_change():
    method = Unic(teachers=("a",))
    run = context(tiny.llama(), {"a": tiny.llama(seed=1)})
    state = begun(method, run)
    batch = TASK.collate(text_rows(6))
    outputs = TASK.forward(run.adapted.model, batch, hidden=True)
    states = TeachersStates(models=("a",)).compute(run, batch)[0]

    def loss(scale: float, shift: float):
        moved = scale * states + shift
        needs = {"teachers_states": (moved,), "feature_statistics": {"a": (moved.mean(0), moved.std(0, correction=0))}}
        return method.objective(outputs, batch, Needs(needs), state).value

    torch.testing.assert_close(loss(1, 0), loss(7, -3), atol=1e-4, rtol=1e-4)


def test_the_student_comes_nearer_to_both_teachers():
    method = Unic(teachers=TWO)
    run = context(tiny.llama(), {"a": tiny.llama(seed=1), "b": tiny.llama(seed=2, hidden=48)})
    state = begun(method, run)
    optimizer = torch.optim.Adam([*run.adapted.model.parameters(), *state.ladders.parameters()], 3e-3)
    run.adapted.model.requires_grad_(True)
    seen = []
    for _ in range(60):
        optimizer.zero_grad()
        value, _, _ = told(method, run, state)
        value.mean().backward()
        seen.append(value.mean().item())
        optimizer.step()
    assert seen[-1] < 0.4 * seen[0]


def test_teachers_never_train_and_ladders_train_and_are_dropped():
    t = Tiny([("unic", Unic(teachers=("teacher", "other")))], steps=4)
    other = t.loop.stage.signals.__self__.context.other
    before = {name: {n: p.clone() for n, p in other(name).model.state_dict().items()} for name in ("teacher", "other")}
    t.run()
    assert all(torch.equal(p, before[name][n]) for name in before for n, p in other(name).model.state_dict().items())
    assert {"loss_teacher/unic", "loss_other/unic"} <= t.records[-1].keys()
    assert not any("ladder" in n for n in t.adapted.tuned_state()) and any(
        "ladders" in n for n in t.loop.trained.leaves
    )


def test_what_cannot_be_served_is_one_clear_error():
    with pytest.raises((ValueError, RecipeError), match="named twice: a, a"):
        Unic(teachers=("a", "a"))
    run = NeedContext(Adapted(tiny.llama()), TASK, 0, {"train": text_rows(2)})
    for need in (TeachersStates(models=TWO), FeatureStatistics(models=TWO)):
        with pytest.raises(MethodError, match="'a'"):
            need.check(run)
