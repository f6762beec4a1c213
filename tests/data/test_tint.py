"""TInt's rows: traces that are right, noise that is local or carried on, and nothing else that it changes."""

from __future__ import annotations

import operator
import re
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from tunewright.data.generators import generator
from tunewright.data.generators.tint import FUNCTIONS, Rows, traced
from tunewright.errors import DataError
from tunewright.runs.run import run

NUMBERS = st.lists(st.integers(0, 999), min_size=2, max_size=7)


def rows(**more: Any) -> list[dict[str, Any]]:
    return [dict(r) for r in Rows(**{"rows": 200, **more}).make()]


def plain(name: str, x: list[int]) -> int:
    """The functions once more, without traces."""
    if name == "sum":
        return sum(x)
    if name == "alternate":
        return x[0] - sum(x[1::2]) + sum(x[2::2])
    if name == "horner":
        return sum(n * 2 ** (len(x) - 1 - i) for i, n in enumerate(x))
    if name == "digit":
        value = x[0]
        for n in x[1:]:
            value = (value * n) % 10
        return value
    return max(x)


def value_of(line: str) -> tuple[int, int, int]:
    """(first operand, what the line's operation gives, what the line says)."""
    said, _, result = line.partition(" = ")
    if said.startswith("max "):
        a, b = map(int, said.split()[1:])
        return a, max(a, b), int(result)
    first, sign, second = said.split(" ")
    a, b = int(first), int(second)
    does = {"+": operator.add, "-": operator.sub, "*": operator.mul, "%": operator.mod}
    return a, does[sign](a, b), int(result)


def test_a_row_as_it_is_written():
    assert traced("sum", [12, 7, 30]).trace.lines == ["12 + 7 = 19", "19 + 30 = 49"]
    (row,) = Rows(rows=1, functions=["digit"], fewest=2, most=2, seed=3).make()
    a, b = map(int, row["prompt"].split()[1:])
    assert row["prompt"] == f"digit {a} {b}\n"
    assert row["completion"] == f"{a} * {b} = {a * b}\n{a * b} % 10 = {a * b % 10}\nanswer {a * b % 10}"
    assert row["answer"] == str(a * b % 10) and row["spoiled"] == 0


@given(st.sampled_from(sorted(FUNCTIONS)), NUMBERS)
def test_every_line_follows_from_the_one_before_and_the_last_is_the_function(name, numbers):
    done = traced(name, numbers)
    assert done.value == plain(name, numbers)
    told = [value_of(line) for line in done.trace.lines]
    assert all(value == said for _, value, said in told) and told[0][0] == numbers[0]
    assert all(before[2] == after[0] for before, after in pairwise(told)) and told[-1][2] == done.value


@pytest.mark.parametrize("noise", ["digits", "lines", "dynamic"])
def test_without_intensity_or_share_the_set_is_the_clean_one(noise):
    clean = rows()
    assert rows(noise=noise, intensity=0.0) == clean == rows(noise=noise, share=0.0, intensity=1.0)
    assert all(r["spoiled"] == 0 for r in clean) and Counter(r["prompt"].split()[0] for r in clean).keys() == {
        *FUNCTIONS
    }


@pytest.mark.parametrize("noise", ["digits", "lines"])
def test_static_noise_leaves_prompt_answer_and_untouched_lines(noise):
    clean, spoiled = rows(), rows(noise=noise, intensity=0.3)
    assert any(r["spoiled"] for r in spoiled)
    for before, after in zip(clean, spoiled, strict=True):
        lines, told = before["completion"].split("\n"), after["completion"].split("\n")
        assert after["prompt"] == before["prompt"] and told[-1] == lines[-1] == f"answer {before['answer']}"
        if noise == "lines":
            assert len(lines) - len(told) == after["spoiled"]
            rest = iter(lines)
            assert all(line in rest for line in told)  # in their order
        else:
            changed = sum(a != b for a, b in zip(before["completion"], after["completion"], strict=True))
            assert changed == after["spoiled"]
            assert re.sub(r"\d", "0", before["completion"]) == re.sub(r"\d", "0", after["completion"])
    whole = rows(noise="digits", intensity=1.0)
    same = [a == b for r, s in zip(clean, whole, strict=True) for a, b in _digits(r, s)]
    assert not any(same)


def _digits(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of digits of two traces, without their answers."""
    one, other = (r["completion"].rpartition("\n")[0] for r in (before, after))
    return [(a, b) for a, b in zip(one, other, strict=True) if a.isdigit()]


def test_dynamic_noise_is_carried_on_to_the_answer():
    spoiled = rows(noise="dynamic", intensity=0.4, reach=3)
    wrong = 0
    for row in spoiled:
        *lines, last = row["completion"].split("\n")
        told = [value_of(line) for line in lines]
        errors = [said - value for _, value, said in told]
        assert all(before[2] == after[0] for before, after in pairwise(told))
        assert sum(e != 0 for e in errors) == row["spoiled"] and all(abs(e) <= 3 for e in errors)
        assert last == f"answer {told[-1][2]}"
        name, *numbers = row["prompt"].split()
        assert row["answer"] == str(plain(name, [int(n) for n in numbers]))
        wrong += last != f"answer {row['answer']}"
    assert wrong > 100  # of 200, at 0.4 a step


def test_more_of_the_rows_are_spoiled_with_a_share_and_the_others_stay():
    clean = rows()
    some, more = (rows(noise="dynamic", intensity=1.0, share=s) for s in (0.3, 0.6))
    hit, also = ({i for i, r in enumerate(x) if r["spoiled"]} for x in (some, more))
    assert hit < also and abs(len(hit) - 60) < 25 and abs(len(also) - 120) < 25
    assert all(some[i] == clean[i] for i in range(200) if i not in hit)


def test_numbers_are_drawn_by_magnitude_or_by_length_and_lists_by_their_bounds():
    for draw, short in (("magnitude", 0.1), ("length", 0.5)):
        found = [r["prompt"].split()[1:] for r in rows(draw=draw, digits=2, fewest=3, most=5, seed=1)]
        assert {len(x) for x in found} == {3, 4, 5}
        flat = [n for x in found for n in x]
        assert abs(sum(len(n) == 1 for n in flat) / len(flat) - short) < 0.06
        assert max(map(len, flat)) == 2
    assert rows(seed=2) != rows(seed=3) and rows(seed=2) == rows(seed=2)


def test_what_cannot_be_is_said():
    with pytest.raises(DataError, match="at least 5 and at most 3 numbers"):
        generator("make:tint", {"fewest": 5, "most": 3})
    with pytest.raises(DataError, match="functions"):
        generator("make:tint", {"functions": ["cube"]})


def test_a_recipe_learns_them_and_a_filter_takes_the_spoiled_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=2, test=2)
    parameters = {"rows": 30, "noise": "dynamic", "intensity": 0.5}
    data = {
        "train": [{"path": "make:tint", "parameters": parameters}],
        "select": [{"threshold": {"column": "spoiled", "least": None, "most": 0}}],
        "eval": "test.jsonl",
        "max_length": 256,
    }
    stages = [{"name": "main", "methods": ["full"], "budget": {"steps": 1}}]
    recipe = small.write_recipe(tmp_path, data=data, stages=stages)
    run(recipe, tmp_path / "out", quiet=True)
    told = (tmp_path / "out" / "selection" / "main.jsonl").read_text()
    clean = sum(r["spoiled"] == 0 for r in Rows(**parameters).make())
    assert 0 < clean < 30 and told.count('"rank": null') == 30 - clean
