from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.claims.lab import procedural

SEEDS = st.integers(0, 10_000).map(random.Random)


def read_trace(completion: str) -> tuple[dict[str, int], int]:
    """A `program` completion taken apart: the values of its steps, and its answer. ValueError where it is none."""
    steps, dot, last = completion.partition(". ")
    if not dot or not re.fullmatch(r"[a-h] = \d+", last):
        raise ValueError(f"no trace: {completion!r}")
    return {k: int(v) for k, v in (s.split(" = ") for s in steps.split("; "))}, int(last.split(" = ")[1])


@given(SEEDS, st.integers(1, 8), st.integers(2, 20))
def test_a_trace_evaluates_to_the_answer(rng, steps, modulus):
    row = procedural.program(rng, steps, modulus, largest=9)
    values, answer = read_trace(row["completion"])
    environment: dict[str, int] = {}
    for line in row["prompt"].rsplit(".", 1)[0].split("; "):
        name, expression = line.split(" = ")
        environment[name] = (
            eval(expression, {"__builtins__": {}}, environment) % modulus
        )  # our own text: digits, names, + and -
    assert values == environment and answer == environment[row["prompt"][-2]] and len(values) == steps


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_list_functions_keep_what_their_words_promise(digits):
    given_ = " ".join(map(str, digits))
    solved = {word: procedural.solve_list(f"{word} {given_}") for word in procedural.LISTS}
    assert solved["reverse"].split()[::-1] == given_.split()
    assert [int(d) for d in solved["sort"].split()] == sorted(digits)
    assert (
        int(solved["largest"]) == max(digits)
        and int(solved["smallest"]) == min(digits)
        and int(solved["length"]) == len(digits)
    )
    assert solved["first"] == str(digits[0]) and solved["last"] == str(digits[-1])


@given(SEEDS)
def test_list_rows_are_solved_as_they_say(rng):
    row = procedural.list_function(rng)
    assert row["completion"] == procedural.solve_list(row["prompt"])


@given(st.integers(0, 1000))
def test_rows_are_different_and_the_same_for_a_seed(seed):
    made = procedural.make([procedural.list_function, procedural.program], 60, seed)
    assert len({r["prompt"] for r in made}) == 60
    assert made == procedural.make([procedural.list_function, procedural.program], 60, seed)


def test_too_many_rows_are_refused_and_so_is_what_is_no_trace():
    with pytest.raises(ValueError, match="different rows"):
        procedural.make([lambda rng: procedural.program(rng, steps=1)], 400, 0)
    for text in ("a = 3", "a = 3. x = 3", "nothing"):
        with pytest.raises(ValueError):
            read_trace(text)
