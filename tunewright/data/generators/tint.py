"""TInt: integer functions of lists with every step written out, and traces that are spoiled on purpose (Havrilla & Iyer
2024; papers: tint).

Each row has a prompt, its completion and two columns: `spoiled`, how much of it was spoiled (0: nothing; the selector
`threshold` filters by it), and `answer`, the right one. `sum 12 7 30` is answered

    12 + 7 = 19
    19 + 30 = 49
    answer 49

by running the function on integers that keep a line of each operation. `functions`, over numbers x_1 .. x_n:

| function | what it does |
| --- | --- |
| sum | adds each to what there is |
| alternate | takes the second from the first, adds the third, takes away the fourth ... |
| horner | doubles what there is and adds the next |
| digit | multiplies what there is by the next and keeps the last digit |
| largest | keeps the larger of what there is and the next |

A share `share` of the rows is spoiled, each at `intensity` p:

    digits    static: each digit of the trace becomes another one with probability p
    lines     static: each line of the trace goes with probability p
    dynamic   the result v of each operation becomes v + e with probability p, e uniform in -reach .. reach but 0, and
              what follows is computed from it, so that the answer is that of the spoiled trace

Static noise leaves the answer alone: spoilt there it would be a wrong label. Nothing at all is changed by noise but the
spoiled rows: those of another share are the same rows, and with p or the share at 0 they are the clean set. One p is
not one damage: `spoiled` and `answer` say what it did. Numbers are drawn evenly below 10^digits (`magnitude`), or as
many digits as an even draw says (`length`).

Defaults: all ours. Another seed draws other rows, of which some may be equal where there are few.
Differs from the paper in: functions and forms of the trace are ours. Written from the abstract, without the authors'
code.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from tunewright.data.generators import Generator


@dataclass
class Trace:
    """Lines of the operations that were done, each of which `noise` changed by what it gave."""

    noise: Callable[[], int] = lambda: 0
    lines: list[str] = field(default_factory=list)
    changed: int = 0

    def result(self, said: str, value: int) -> Traced:
        """The value of an operation, after noise, with its line written."""
        error = self.noise()
        self.changed += error != 0
        self.lines.append(f"{said} = {value + error}")
        return Traced(value + error, self)


@dataclass(frozen=True)
class Traced:
    """An integer whose operations leave lines in a trace."""

    value: int
    trace: Trace

    def __add__(self, other: Traced) -> Traced:
        return self.trace.result(f"{self.value} + {other.value}", self.value + other.value)

    def __sub__(self, other: Traced) -> Traced:
        return self.trace.result(f"{self.value} - {other.value}", self.value - other.value)

    def __mul__(self, other: Traced) -> Traced:
        return self.trace.result(f"{self.value} * {other.value}", self.value * other.value)

    def __mod__(self, other: int) -> Traced:
        return self.trace.result(f"{self.value} % {other}", self.value % other)

    def larger(self, other: Traced) -> Traced:
        return self.trace.result(f"max {self.value} {other.value}", max(self.value, other.value))


def _alternate(some: Sequence[Traced]) -> Traced:
    return reduce(lambda a, ib: a - ib[1] if ib[0] % 2 == 0 else a + ib[1], enumerate(some[1:]), some[0])


def _horner(some: Sequence[Traced]) -> Traced:
    return reduce(lambda a, b: a * Traced(2, a.trace) + b, some)


Function = Literal["sum", "alternate", "horner", "digit", "largest"]
FUNCTIONS: dict[Function, Callable[[Sequence[Traced]], Traced]] = {
    "sum": lambda some: reduce(lambda a, b: a + b, some),
    "alternate": _alternate,
    "horner": _horner,
    "digit": lambda some: reduce(lambda a, b: a * b % 10, some),
    "largest": lambda some: reduce(lambda a, b: a.larger(b), some),
}


class Rows(Generator):
    """Functions of lists of integers with their traces, clean or spoiled."""

    functions: list[Function] = Field(list(FUNCTIONS), min_length=1, description="each as often as the others")
    fewest: int = Field(2, ge=2, description="numbers of a list, at least")
    most: int = Field(6, ge=2, description="numbers of a list, at most")
    digits: PositiveInt = Field(2, description="digits of a number, at most")
    draw: Literal["magnitude", "length"] = Field("magnitude", description="what is drawn evenly")
    noise: Literal["digits", "lines", "dynamic"] | None = Field(None, description="how traces are spoiled; none: not")
    share: float = Field(1.0, ge=0, le=1, description="share of the rows that is spoiled")
    intensity: float = Field(0.1, ge=0, le=1, description="p, of each digit, line or result of such a row")
    reach: PositiveInt = Field(9, description="largest error of a result")

    @model_validator(mode="after")
    def _fewest_is_not_more(self) -> Rows:
        if self.fewest > self.most:
            raise ValueError(f"lists of at least {self.fewest} and at most {self.most} numbers are none")
        return self

    def make(self) -> Iterator[Mapping[str, Any]]:
        rng = random.Random(f"tint/{self.seed}")
        for i in range(self.rows):
            name = rng.choice(self.functions)
            numbers = [self._number(rng) for _ in range(rng.randint(self.fewest, self.most))]
            noise = random.Random(f"tint/{self.seed}/{i}/noise")
            yield self._row(name, numbers, noise, noise.random() < self.share)

    def _number(self, rng: random.Random) -> int:
        if self.draw == "magnitude":
            return rng.randrange(10**self.digits)
        length = rng.randint(1, self.digits)
        return rng.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)

    def _row(self, name: Function, numbers: Sequence[int], rng: random.Random, hit: bool) -> dict[str, Any]:
        clean = traced(name, numbers)
        done, spoiled = clean, 0
        if hit and self.noise == "dynamic":
            done = traced(name, numbers, lambda: self._error(rng))
            spoiled = done.trace.changed
        lines = done.trace.lines
        if hit and self.noise == "lines":
            lines = [line for line in lines if rng.random() >= self.intensity]
            spoiled = len(done.trace.lines) - len(lines)
        elif hit and self.noise == "digits":
            lines = [re.sub(r"\d", lambda found: self._digit(found[0], rng), line) for line in lines]
            spoiled = sum(a != b for a, b in zip("\n".join(lines), "\n".join(done.trace.lines), strict=True))
        completion = "\n".join([*lines, f"answer {done.value}"])
        prompt = f"{name} {' '.join(map(str, numbers))}\n"
        return {"prompt": prompt, "completion": completion, "spoiled": spoiled, "answer": str(clean.value)}

    def _error(self, rng: random.Random) -> int:
        return rng.choice((-1, 1)) * rng.randint(1, self.reach) if rng.random() < self.intensity else 0

    def _digit(self, digit: str, rng: random.Random) -> str:
        return rng.choice("0123456789".replace(digit, "")) if rng.random() < self.intensity else digit


def traced(name: Function, numbers: Sequence[int], noise: Callable[[], int] = lambda: 0) -> Traced:
    """The value of a function, with the trace of its operations."""
    trace = Trace(noise)
    return FUNCTIONS[name]([Traced(n, trace) for n in numbers])
