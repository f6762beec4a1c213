"""Compute per token stands beside the winner: in its sentence, in the table, on the page, and as a note."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.test_page import assert_safe
from tests.test_compare import TREE, failed, judged, record
from tunewright.compare.cautions import cautions
from tunewright.recipe import Recipe
from tunewright.report import compare as page


def spent(name, gain, flops, statistics=0.0, lost=0.5):
    cost = {"tokens": 1000, "flops_by_phase": {"train": flops, "statistics": statistics}}
    return lambda s, noise: record(name, s, gain + noise, lost=lost, cost=cost)


def notes(made):
    records = {a.name: {s: failed(a.name, s) for s in made.seeds} for a in made.arms}
    return " ".join(cautions(made, records, Recipe(**TREE)))


def test_statistics_and_every_pass_count():
    made = judged(many=spent("many", 0.6, 4e9, 1e9), one=spent("one", 0.3, 1e9))
    assert made.arm("many").flops_per_token == pytest.approx(5e6) and made.arm("one").flops_per_token == 1e6
    assert page.compute(made, made.arm("many")) == ("5.0M FLOPs", "5 x")
    assert page.compute(made, made.arm("one")) == ("1.0M FLOPs", "1 x")


def test_the_winners_compute_stands_in_its_sentence_and_is_a_note_where_it_is_more():
    made = judged(many=spent("many", 0.6, 4e9), one=spent("one", 0.3, 1e9))
    assert made.winner == "many" and page.headline(made)[-1].endswith("4.0M FLOPs a token, 4 times as many as one.")
    assert "computes 4 times as much a token as one" in notes(made)
    made.budget = {"flops": 1e9}
    assert "times as much a token" not in notes(made)
    frugal = judged(many=spent("many", 0.3, 4e9), one=spent("one", 0.6, 1e9))
    assert page.headline(frugal)[-1].endswith("1.0M FLOPs a token, no method less.") and "a token" not in notes(frugal)
    near = judged(many=spent("many", 0.6, 1.4e9), one=spent("one", 0.3, 1e9))
    assert "1.4 times as many as one" in page.headline(near)[-1] and "times as much" not in notes(near)


def test_terminal_and_page_have_a_column():
    made = judged(many=spent("many", 0.6, 4e9), one=spent("one", 0.3, 1e9))
    console = Console(width=160, record=True, file=io.StringIO())
    page.show(made, Path("there"), console)
    said = console.export_text()
    assert "compute" in said and "4 x" in said
    text = assert_safe(page.html(made)).text
    assert "Compute a token" in text and "4.0M FLOPs" in text


def test_where_nothing_was_counted_nothing_is_said():
    made = judged(a=lambda s, n: record("a", s, 0.6 + n), b=lambda s, n: record("b", s, 0.3 + n))
    assert made.arm("a").flops_per_token is None and "FLOPs" not in " ".join(page.headline(made))
    assert page.compute(made, made.arm("a")) == ("", "") and "times as much" not in notes(made)


def test_fixed_rows_are_said_with_their_standard_error():
    made = judged(a=lambda s, n: record("a", s, 0.4 + n, lost=0.1), b=lambda s, n: record("b", s, 0.1 + n))
    assert "the same" not in notes(made)  # nothing says how many
    made.evaluated = 400
    assert "the same 400 rows" in notes(made) and "by its rows alone: 2.5 points" in notes(made)
    made.unit = "nats per token"
    assert "the same 400 rows" in notes(made) and "points" not in notes(made)
    assert "judged on the same rows" in assert_safe(page.html(made)).text


@pytest.mark.parametrize(
    ("task", "metric", "one", "counted"),
    [
        ("text-generation", "exact_match", "row", "a token"),
        ("reinforcement-learning", "return", "episode", "a token"),
        ("time-series-forecasting", "mase", "window", "a time step"),
        ("object-detection", "map", "picture", "a patch"),
    ],
)
def test_notes_count_in_what_the_task_has(task, metric, one, counted):
    made = judged(many=spent("many", 0.6, 4e9), one=spent("one", 0.3, 1e9), other=spent("other", 0.2, 1e9))
    made.task, made.metric, made.evaluated = task, metric, 120
    said = notes(made)
    assert f"only 120 {one}s measured the target" in said and f"as much {counted} as one" in said
    assert f"the same 120 {one}s: what other {one}s would give" in said and f"these very {one}s" in said
    assert ("row" in said) == (one == "row") and f"figure by its {one}s alone" in said
    assert f"judged on the same {one}s: what other {one}s would give" in assert_safe(page.html(made)).text
