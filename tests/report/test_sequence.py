"""A sequence of tasks on a terminal and on a page."""

from __future__ import annotations

from tests.report.example import make_example
from tests.report.sequence_example import make_sequence
from tests.report.test_page import assert_safe
from tunewright.report import page, sequence_words, terminal


def test_a_terminal_shows_the_matrix_and_of_many_tasks_a_line_each() -> None:
    few, some, many = (terminal.text(make_sequence(n)) for n in (3, 7, 12))
    assert "[87.0, 93.0]" in few and "rows replayed" in few and " held " in few and "loss on" in few
    matrix = some[some.index("A sequence of tasks") : some.index("over the sequence")]
    assert "[" not in matrix and matrix.count("90.0 %") == 7  # no ends where they would not fit
    lines = many[many.index("A sequence of tasks") : many.index("over the sequence")]
    assert "after its own" in lines and lines.count("task-") == 11 and "task-5" in lines
    assert all(len(line) <= 100 for text in (few, some, many) for line in text.splitlines())


def test_a_page_shades_the_matrix_by_how_good_it_is() -> None:
    up, down = (sequence_words.matrix(make_sequence(direction=d)) for d in ("higher", "lower"))
    assert up[1][1][0].shade == 0.9 and down[1][1][0].shade == 0.1  # of losses the small ones are dark
    cells = [c for _, row in up for c in row]
    assert sum(c.own for c in cells) == 3 and sum(c.ahead for c in cells) == 6
    text = assert_safe(page.html(make_sequence())).text
    assert "12 000" not in text and "50 % of a task's values are its own" in text and "At the end of 3 tasks" in text
    assert "The sequence" not in assert_safe(page.html(make_example())).text


def test_what_a_figure_means_has_its_colour() -> None:
    fates = {f.name.split(":")[0].split(",")[0]: f.fate for f in sequence_words.figures(make_sequence())}
    assert fates["backward transfer (BWT)"] == fates["forgetting"] == "worse"
    assert fates["forward transfer (FWT)"] == "" == fates["ACC"]


def test_of_very_many_stages_a_few_lines_are_shown():
    assert sequence_words.thinned(list(range(24))) == list(range(24))
    few = sequence_words.thinned(list(range(101)))
    assert len(few) == 24 and few[:2] == [0, 1] and few[-1] == 100
    gaps = {b - a for a, b in zip(few[1:], few[2:], strict=False)}
    assert gaps <= {4, 5}
