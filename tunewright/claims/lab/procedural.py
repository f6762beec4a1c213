"""Rows made by a program: functions of lists, and straight-line integer programs with their traces.

Each kind has a maker (a seed gives the same rows everywhere), and an answer that can be worked out again from the
prompt alone, which is how the tests check it. No two rows of a set have the same prompt, so that parts cut from one set
share none.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Row = dict[str, str]
NAMES = "abcdefgh"

LISTS: dict[str, Callable[[list[int]], Any]] = {
    "first": lambda x: x[0],
    "last": lambda x: x[-1],
    "largest": max,
    "smallest": min,
    "reverse": lambda x: x[::-1],
    "sort": sorted,
    "length": len,
}
"""Functions of a list of digits, by the word that the prompt uses."""


def list_function(rng: random.Random, longest: int = 5) -> Row:
    """A function of a list of digits: "reverse 3 1 2" -> "2 1 3"."""
    digits = [str(rng.randrange(10)) for _ in range(rng.randint(2, longest))]
    prompt = f"{rng.choice(sorted(LISTS))} {' '.join(digits)}"
    return {"prompt": prompt, "completion": solve_list(prompt)}


def solve_list(prompt: str) -> str:
    """The answer of a `list_function` prompt."""
    word, *digits = prompt.split()
    value = LISTS[word]([int(d) for d in digits])
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def program(rng: random.Random, steps: int = 3, modulus: int = 10, largest: int = 3) -> Row:
    """A program of `steps` assignments modulo `modulus`, and its trace with the last variable's value.

    "e = 3; b = e + 2; c = b - 1. c?" -> "e = 3; b = 5; c = 4. c = 4". Every line uses the one before it and a number up
    to `largest`; variables are drawn from eight letters.
    """
    names = rng.sample(NAMES, steps)
    lines = [f"{names[0]} = {rng.randrange(modulus)}"]
    for before, name in zip(names, names[1:], strict=False):
        lines.append(f"{name} = {before} {rng.choice('+-')} {rng.randint(1, largest)}")
    prompt = f"{'; '.join(lines)}. {names[-1]}?"
    values = trace(prompt, modulus)
    return {
        "prompt": prompt,
        "completion": f"{'; '.join(f'{k} = {v}' for k, v in values.items())}. {names[-1]} = {values[names[-1]]}",
    }


def trace(prompt: str, modulus: int = 10) -> dict[str, int]:
    """Run a `program` prompt: every variable's value, in order."""
    values: dict[str, int] = {}
    for line in prompt.rsplit(".", 1)[0].split("; "):
        name, expression = line.split(" = ")
        parts = expression.split()
        first = values[parts[0]] if parts[0] in values else int(parts[0])
        values[name] = (_apply(first, parts[1], int(parts[2])) if len(parts) == 3 else first) % modulus
    return values


def _apply(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b


def make(makers: list[Callable[[random.Random], Row]], count: int, seed: int) -> list[Row]:
    """`count` rows with different prompts, the makers in turn. ValueError where a maker has no more than it gave."""
    rng, seen, out = random.Random(seed), set[str](), list[Row]()
    tries = 0
    while len(out) < count:
        row = makers[len(out) % len(makers)](rng)
        tries += 1
        if tries > 50 * count:
            raise ValueError(f"only {len(out)} different rows of {count} after {tries} draws")
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            out.append(row)
    return out
