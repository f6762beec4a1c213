"""What claims that choose within their own measure read, and the made tables that one of them asks about."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from tunewright.claims.papers import _chosen, _small_tables
from tunewright.measure.rows import RowResult
from tunewright.trials.row_scores import RowScores


def record(base, tuned, weights=None):
    def rows(values):
        counts = weights or [1.0] * len(values)
        return [RowResult(id=f"r:{i}", score=v, weight=w) for i, (v, w) in enumerate(zip(values, counts, strict=True))]

    return SimpleNamespace(rows=RowScores.of(rows(base), rows(tuned)))


def test_rows_stand_in_turn_and_are_read_apart():
    assert _chosen.in_turn("abc", "12") == ["a", "1", "b", "2"]
    one = record([0.0, 4.0, 0.0, 4.0], [1.0, 10.0, 3.0, 40.0])
    assert _chosen.means(one, 2) == [2.0, 25.0] and _chosen.means(one, 2, base=True) == [0.0, 4.0]
    weighed = record([0.0] * 4, [1.0, 10.0, 3.0, 40.0], weights=[1.0, 1.0, 3.0, 2.0])
    assert _chosen.means(weighed, 2) == pytest.approx([2.5, 30.0])


def test_the_rows_that_are_judged_choose_nothing():
    lower, worse, equal = (record([0.0] * 2, values) for values in ([1.0, 9.0], [2.0, 0.0], [1.0, 0.0]))
    assert _chosen.lowest([worse, lower]) == 9.0 and _chosen.lowest([lower, equal]) == 9.0  # the first of equals
    assert _chosen.highest([lower, worse]) == [2.0, 0.0] and _chosen.highest([lower, equal]) == [1.0, 9.0]


def cells(text: str) -> list[dict[str, str]]:
    """The rows of a table that stands in a text, read again from its words alone."""
    head, *lines = re.split(r" row \d+ : ", text.partition("col : ")[2])
    return [dict(zip(head.split(" | "), line.split(" | "), strict=True)) for line in lines]


def told(text: str) -> list[tuple[str, str]]:
    """(name, value) of sentences about people."""
    return re.findall(r"(\w+) (?:lives in|is a|likes) (\w+) \.", text)


def test_tables_say_what_stands_around_them_and_what_is_asked():
    for text in _small_tables.texts(50, 1):
        by_name = {row["name"]: row.values() for row in cells(text)}
        assert len(by_name) == 3 and len(told(text)) == 2
        assert all(value in by_name[name] for name, value in told(text))
    answers = set()
    for i, row in enumerate(_small_tables.tasks(300, 0)):
        people, prompt, answer = cells(row["prompt"]), row["prompt"], row["completion"]
        if i % 3 == 0:
            column, name = re.match(r"what is the (\w+) of (\w+) \?", prompt).groups()
            assert answer == next(p[column] for p in people if p["name"] == name)
        elif i % 3 == 1:
            ((name, value),) = told(prompt)
            assert answer == ("true" if value in next(p for p in people if p["name"] == name).values() else "false")
            answers.add(answer)
        else:
            assert (
                re.fullmatch(r"select name where (\w+) = (\w+)", answer).groups()
                == re.search(r"has the (\w+) (\w+) \?", prompt).groups()
            )
    assert answers == {"true", "false"}
    assert _small_tables.tasks(9, 5) == _small_tables.tasks(9, 5) != _small_tables.tasks(9, 6)
