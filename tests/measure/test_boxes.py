"""Average precision: what COCO's evaluation counts, by hand, by its properties, and by its own code (tests/parity)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tunewright.measure import boxes
from tunewright.measure.boxes import iou, mean_precision, mean_recall, precision_by_class
from tunewright.tasks import _detections

coordinate, side = st.integers(0, 40), st.integers(1, 30)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
some = st.lists(st.tuples(st.sampled_from("ab"), box), max_size=5)
every = st.lists(some, min_size=1, max_size=4)


def row(said: Any, there: Any) -> Any:
    """`said`: (class, score, box); `there`: (class, box) or (class, box, True) of a crowd."""
    return SimpleNamespace(answer=json.dumps(said), reference=json.dumps(there), score=0.0)


def array(given: Any) -> Any:
    return np.array(given, float).reshape(-1, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(box, max_size=4), st.lists(box, max_size=4))
def test_intersection_over_union_is_symmetric_and_a_share(a: Any, b: Any) -> None:
    found = iou(array(a), array(b))
    assert found.shape == (len(a), len(b)) and ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, iou(array(b), array(a)).T)
    assert np.allclose(np.diag(iou(array(a), array(a))), 1)


def test_intersection_over_union_by_hand() -> None:
    found = iou(array([[0, 0, 4, 4], [4, 0, 8, 4]]), array([[2, 0, 6, 4], [0, 0, 8, 8]]))
    assert np.allclose(found, [[8 / 24, 16 / 64], [8 / 24, 16 / 64]])
    crowd = iou(array([[0, 0, 4, 4]]), array([[2, 0, 6, 4]]), np.array([True]))
    assert np.allclose(crowd, 8 / 16)


@settings(max_examples=40, deadline=None)
@given(every)
def test_what_is_said_as_it_is_scores_in_full(pictures: Any) -> None:
    distinct = [[t for i, t in enumerate(there) if t[1] not in [o[1] for o in there[:i]]] for there in pictures]
    rows = [row([[k, 1 - 0.1 * i, b] for i, (k, b) in enumerate(there)], there) for there in distinct]
    full = float(any(distinct))
    for figure in (mean_precision(), mean_precision(0.5), mean_precision(0.75), mean_recall):
        assert figure(rows) == pytest.approx(full, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(every)
def test_what_lies_elsewhere_scores_nothing(pictures: Any) -> None:
    rows = [row([[k, 0.9, [v + 100 for v in b]] for k, b in there], there) for there in pictures]
    assert mean_precision()(rows) == mean_precision(0.5)(rows) == mean_recall(rows) == 0


@settings(max_examples=40, deadline=None)
@given(every, st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1), box), max_size=4), min_size=4))
def test_figures_are_shares_and_a_worse_guess_more_takes_no_recall(pictures: Any, said: Any) -> None:
    rows = [row(s, there) for s, there in zip(said, pictures, strict=False)]
    more = [row([*s, ["a", -1.0, [0, 0, 1, 1]]], there) for s, there in zip(said, pictures, strict=False)]
    for figure in (mean_precision(), mean_precision(0.5), mean_recall):
        assert 0 <= figure(rows) <= 1
    assert mean_recall(more) >= mean_recall(rows)
    assert mean_precision(0.5)(rows) >= mean_precision()(rows) - 1e-12


def test_average_precision_by_hand() -> None:
    """Found, not, found of three that are there: precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3."""
    there = [["a", [0, 0, 10, 10]], ["a", [20, 0, 30, 10]], ["a", [40, 0, 50, 10]]]
    said = [["a", 0.9, [0, 0, 10, 10]], ["a", 0.8, [60, 0, 70, 10]], ["a", 0.7, [20, 0, 30, 10]]]
    wanted = (34 * 1.0 + 33 * (2 / 3) + 34 * 0.0) / 101  # recalls 0..0.33, 0.34..0.66, 0.67..1
    assert mean_precision()([row(said, there)]) == pytest.approx(wanted)
    assert mean_recall([row(said, there)]) == pytest.approx(2 / 3)
    over = [["a", 0.9, [0, 0, 10, 6.5]], *said[1:]]  # 0.65 of it: at four of ten thresholds
    whole, half = (33 * (1 / 3) + 0.0 * 68 + 1 * (1 / 3)) / 101, wanted
    assert mean_precision()([row(over, there)]) == pytest.approx(0.4 * half + 0.6 * whole)


def test_a_box_that_is_found_is_found_once_and_a_class_alone_counts() -> None:
    there = [["a", [0, 0, 10, 10]]]
    twice = [["a", 0.9, [0, 0, 10, 10]], ["a", 0.8, [0, 0, 10, 10]]]
    assert mean_precision()([row(twice, there)]) == 1.0
    two, both = [*there, ["a", [20, 0, 30, 10]]], [*twice, ["a", 0.7, [20, 0, 30, 10]]]
    assert mean_precision()([row(both, two)]) == pytest.approx((51 * 1 + 50 * (2 / 3)) / 101), "the second is wrong"
    assert mean_recall([row(twice, two)]) == 0.5
    assert mean_precision()([row([["a", 0.95, [50, 0, 60, 10]], *twice[:1]], there)]) == pytest.approx(0.5)
    rows = [row([["b", 0.9, [0, 0, 10, 10]]], there), row([["a", 0.9, [0, 0, 10, 10]]], there)]
    assert precision_by_class(rows) == {"a": pytest.approx(51 / 101)}


def test_what_is_found_of_a_crowd_is_neither_right_nor_wrong() -> None:
    there = [["a", [0, 0, 10, 10]], ["a", [20, 0, 60, 40], True]]
    said = [["a", 0.9, [22, 2, 30, 10]], ["a", 0.85, [30, 2, 40, 10]], ["a", 0.8, [0, 0, 10, 10]]]
    assert mean_precision()([row(said, there)]) == 1.0
    assert mean_precision()([row(said, there[:1])]) == pytest.approx(1 / 3)
    assert mean_precision()([row(said[:1], there[1:])]) == 0.0, "a crowd alone is nothing to find"


def test_texts_hold_what_they_are_made_of() -> None:
    corners = np.array([[0.126, 1, 2, 3], [4, 5, 6, 7.0]])
    names, scores, back = _detections.read_said(
        _detections.said(["a", "b"], [1, 0], np.array([0.25, 0.7500004]), corners)
    )
    assert names == ["a", "b"] and scores.tolist() == [0.75, 0.25]
    assert np.allclose(back, [[4, 5, 6, 7], [0.13, 1, 2, 3]])
    many = _detections.said(["a"], [0] * 130, np.linspace(0, 1, 130), np.zeros((130, 4)))
    assert len(json.loads(many)) == _detections.MOST == 100
    names, back, crowd = _detections.read_right(_detections.right(["a", "b"], [1, 0], corners, [False, True]))
    assert names == ["b", "a"] and crowd.tolist() == [False, True] and np.allclose(back[1], corners[1])
    assert boxes.THRESHOLDS[0] == 0.5 and len(boxes.THRESHOLDS) == 10
