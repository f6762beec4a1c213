"""Figures of a sequence of tasks, reckoned by hand from the matrix."""

from __future__ import annotations

import numpy as np
import pytest

from tunewright.measure import transfer
from tunewright.measure.rows import RowResult
from tunewright.measure.text import macro_f1

# three tasks of ten rows; rows: base, after task 1, 2, 3; what is right of ten
RIGHT = ((1, 2, 0), (8, 3, 1), (6, 9, 2), (4, 5, 7))
R = np.array(RIGHT) / 10


def results(right, *, score=lambda hit: float(hit)):
    return [
        RowResult(id=f"{j}:{k}", source=f"t{j}", score=score(k < n), answer="a" if k < n else "b", reference="a")
        for j, n in enumerate(right)
        for k in range(10)
    ]


OWNERS = [j for j in range(3) for _ in range(10)]


def test_the_figures_are_those_of_the_matrix():
    read = [results(r) for r in RIGHT]
    found = transfer.figures(read, OWNERS, "accuracy", 3)
    assert {k: round(v.value, 6) for k, v in found.items()} == {
        "accuracy": round((0.4 + 0.5 + 0.7) / 3, 6),
        "incremental_accuracy": round((0.8 + (0.6 + 0.9) / 2 + (0.4 + 0.5 + 0.7) / 3) / 3, 6),
        "backward_transfer": round(((0.4 - 0.8) + (0.5 - 0.9)) / 2, 6),
        "forward_transfer": round(((0.3 - 0.2) + (0.2 - 0.0)) / 2, 6),
        "forgetting": round(((0.8 - 0.4) + (0.9 - 0.5)) / 2, 6),
    }
    assert all(i.low < i.value < i.high for i in found.values())
    cells = transfer.cells(read, OWNERS, "accuracy", 3)
    assert [[c.value for c in row] for row in cells] == R.tolist() and cells[3][2].low < 0.7 < cells[3][2].high


def test_forgetting_is_from_the_best_and_transfer_from_the_own_end():
    rising = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.9, 0.6, 0.0], [0.7, 0.6, 0.5]])
    assert transfer.forgetting(rising) == pytest.approx(((0.9 - 0.7) + 0.0) / 2)
    assert transfer.backward_transfer(rising) == pytest.approx(((0.7 - 0.5) + 0.0) / 2)


def test_of_losses_signs_are_turned():
    read = [results(r, score=lambda hit: 0.5 if hit else 2.0) for r in RIGHT]
    loss, share = (
        transfer.figures(read, OWNERS, "loss", 3),
        transfer.figures([results(r) for r in RIGHT], OWNERS, "accuracy", 3),
    )
    for name in share.keys() & set(transfer.CHANGES):  # a row that is wrong costs 1.5 more
        assert loss[name].value == pytest.approx(1.5 * share[name].value)
    assert loss["accuracy"].value == pytest.approx(2.0 - 1.5 * share["accuracy"].value)


def test_rows_weigh_what_they_weigh_and_tasks_count_alike():
    rows = [RowResult(id=str(k), score=x, weight=w) for k, (x, w) in enumerate([(0.5, 9), (2.0, 1), *[(1.0, 1)] * 4])]
    found = transfer.figures([rows] * 3, [0, 0, 1, 1, 1, 1], "loss", 2)["accuracy"]
    assert found.value == pytest.approx(((9 * 0.5 + 2.0) / 10 + 1.0) / 2)


def test_a_model_after_no_tasks_of_its_own_has_no_transfer():
    found = transfer.figures([results(RIGHT[0]), results(RIGHT[3])], OWNERS, "accuracy", 3)
    assert list(found) == ["accuracy"]


def test_a_task_without_rows_has_no_figure_and_takes_none_from_the_others():
    cells = transfer.cells([results(RIGHT[0])], OWNERS, "accuracy", 4)
    assert cells[0][3] is None and cells[0][1].value == 0.2
    found = transfer.figures([results(r) for r in (*RIGHT, RIGHT[3])], OWNERS, "accuracy", 4)
    assert list(found) == ["accuracy"] and found["accuracy"].value == pytest.approx((0.4 + 0.5 + 0.7) / 3)


def test_a_metric_that_is_no_mean_over_rows_is_reckoned_anew(monkeypatch):
    monkeypatch.setattr(transfer, "FEWER", 30)
    read = [results(r) for r in RIGHT]
    found = transfer.figures(read, OWNERS, "f1_macro", 3)["accuracy"]
    by_task = [macro_f1(read[3][10 * j : 10 * j + 10]) for j in range(3)]
    assert found.value == pytest.approx(np.mean(by_task)) and found.low < found.value < found.high


def test_where_no_row_differs_others_may():
    found = transfer.figures([results((10, 10, 10))] * 4, OWNERS, "accuracy", 3)
    assert found["forgetting"].value == 0 and found["forgetting"].low < 0 < found["forgetting"].high
    assert found["accuracy"].low < 1 == found["accuracy"].high


def test_what_was_wrong_of_each_row_is_drawn_alike_in_all_rows_of_the_matrix():
    # rows that never change say nothing of a change, however many are wrong
    read = [results((5, 5, 5)) for _ in range(4)]
    assert transfer.figures(read, OWNERS, "accuracy", 3)["backward_transfer"].value == 0
    wide = transfer.figures(read, OWNERS, "accuracy", 3)
    assert wide["backward_transfer"].high < wide["accuracy"].high - wide["accuracy"].value


def test_what_stages_of_tasks_that_come_again_accumulate():
    read = [results(r) for r in RIGHT]
    found = transfer.figures(read, OWNERS, "accuracy", 3, recurring=True)
    assert list(found) == ["accuracy", "accumulation"]
    means = [np.mean([n / 10 for n in right]) for right in RIGHT]
    assert found["accumulation"].value == pytest.approx(means[3] - means[1])
    losses = [[RowResult(id=str(i), score=x) for i in range(4)] for x in (3.0, 2.0, 2.5, 0.5)]
    assert (
        transfer.figures(losses, [0, 0, 1, 1], "loss", 2, recurring=True)["accumulation"].value == 1.5
    )  # less is better
