"""Sides of tasks that answer in other ways: what is measured is what their own runs report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks import (
    test_problem_types,
    test_question_answering,
    test_sentence_similarity,
    test_text2text,
    test_token_classification,
)
from tests.tasks.test_sentence_similarity import inputs as vectors
from tests.tasks.test_text2text import inputs as two_texts
from tests.tasks.test_token_classification import inputs as tagged
from tunewright.errors import RecipeError
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.runs.run import run

__all__ = ["tagged", "two_texts", "vectors"]


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_what_is_read_on_one_side_and_written_on_the_other(name: str, two_texts: Path, tmp_path: Path) -> None:
    changes = {"measurement__num_beams": 2, "measurement__drift_sequences": 8}
    report = run(test_text2text.recipe(two_texts, name, **changes), tmp_path / "run", quiet=True).report
    pair = measure(Request([str(two_texts / name)], [str(tmp_path / "run")]))
    assert pair.task == "text2text-generation" and report.target is not None and pair.target is not None
    for side in ("before", "after", "difference"):
        assert getattr(pair.target, side) == getattr(report.target, side)
    assert report.drift is not None and pair.drift is not None
    assert pair.drift.value.value == pytest.approx(report.drift.value.value, rel=1e-4)


def test_vectors_of_texts(vectors: Path, tmp_path: Path) -> None:
    report = run(test_sentence_similarity.recipe(vectors), tmp_path / "run", quiet=True).report
    pair = measure(Request([str(vectors / "base")], [str(tmp_path / "run")]))
    assert pair.task == "sentence-similarity" and report.target is not None and pair.target is not None
    assert pair.target.metric == "ndcg@10"
    for side in ("before", "after", "difference"):
        assert getattr(pair.target, side) == getattr(report.target, side)
    assert report.drift is not None and pair.drift is not None
    assert pair.drift.value.value == pytest.approx(report.drift.value.value, rel=1e-4)


def test_classes_of_words(tagged: Path, tmp_path: Path) -> None:
    report = run(test_token_classification.recipe(tagged), tmp_path / "run", quiet=True).report
    pair = measure(Request([str(tmp_path / "run")], [str(tmp_path / "run")]))
    assert report.target is not None and pair.target is not None
    assert pair.target.metric == report.target.metric and pair.target.after == report.target.after
    assert pair.target.difference is not None and pair.target.difference.value == 0
    assert pair.drift is not None and pair.drift.value.value == pytest.approx(0, abs=1e-9)


def test_answers_of_a_context(tmp_path: Path) -> None:
    made = test_question_answering.recipe(tmp_path)
    report = run(made, tmp_path / "run", quiet=True).report
    pair = measure(Request([str(tmp_path / "base")], [str(tmp_path / "run")]))
    assert pair.task == "question-answering" and report.target is not None and pair.target is not None
    for side in ("before", "after", "difference"):
        assert getattr(pair.target, side) == getattr(report.target, side)


@pytest.mark.slow
def test_numbers_are_no_shares_and_other_problems_no_other_side(tmp_path: Path) -> None:
    made = {}
    for kind in ("regression", "multi"):
        (tmp_path / kind).mkdir()
        made[kind] = run(test_problem_types.recipe(tmp_path / kind, kind), tmp_path / f"run-{kind}", quiet=True).report
    number, several = (str(tmp_path / f"run-{kind}") for kind in made)
    pair, report = measure(Request([number], [number])), made["regression"]
    assert report.target is not None and pair.target is not None and pair.target.metric == "mse"
    assert pair.target.unit == report.target.unit != "fraction" and pair.target.after == report.target.after
    for sides in ((number, several), (several, number)):
        with pytest.raises(RecipeError, match="compare models of one task|this run does"):
            measure(Request([sides[0]], [sides[1]]))
