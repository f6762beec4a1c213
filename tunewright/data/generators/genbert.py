"""Numbers as a skill: expressions over numbers, dates and shares, and short stories of who has how many, with answers
(Geva, Gupta & Berant 2020, arXiv:2004.04487, GenBERT's numerical and textual data; papers: genbert).

Each row has a prompt, its completion and its `kind`, drawn evenly from `kinds`:

| kind | prompt | completion |
| --- | --- | --- |
| signed | 517.4 - 17484 + 1013.21 | their signed sum |
| extreme | largest(13.42, 115.5), smallest(..), average(..) | the number, an average to two places |
| named | argmax(river 137.1, stone 43.2), argmin(..) | the word |
| latest | last(5 May 1967; March 3, 1968), earliest(..) | the date as it stands |
| between | difference in days(..), in months, in years | calendar years or months, or days, apart |
| percent | percent not salt, ring :: salt 33.2%, ring 60.77%, lamp 6.03% | the sum of the shares, or what it leaves |
| story | Ben found 7 red shells. Ben gave 2 red shells to Ida. ... | a number or a name |

Numbers are whole ones below `largest`, two to four of them, in half of the rows with up to two decimals (a fifth, two
and two fifths of the numbers have none, one and two). A fifth of all whole numbers, the same for every seed, is held
out: `part: unseen` makes rows of them alone, `seen` of the others. Dates lie between the years 100 and 2020, at most
200 days apart for days and months. A story has `sentences` of six forms over a world that keeps count, then one of six
kinds of questions. With `spaced` every digit is a token's worth: 5 1 7 . 4, the paper's digit tokenisation for any
tokenizer.

Skills are injected beside plain text, so that language stays: `data.replay` is the paper's masked words.

Defaults: the authors' numbers (below 20,000; held out 0.2; shares of decimals); sentences 3 (theirs); not spaced
(ours).
Source: ag1988/injecting_numeracy, pre_training/numeric_data_generation and textual_data_generation.
Differs from the paper in: names, things and verbs of stories are ours (theirs: history and football), a few forms of
sentences and questions of their eleven and seven; sums are exact to the hundredth; GenBERT's own heads are not here: a
model that generates answers in words.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, PositiveInt

from tunewright.data.generators import Generator

Kind = Literal["signed", "extreme", "named", "latest", "between", "percent", "story"]
KINDS: tuple[Kind, ...] = ("signed", "extreme", "named", "latest", "between", "percent", "story")
HELD_OUT = 0.2
WORDS = (
    "river stone lamp road glass north salt ring cloud door wheel bread horse tower copper garden window paper shadow "
    "button harbour pepper basket candle"
).split()
MOST, LEAST = ("longest", "last", "highest", "largest", "most"), ("shortest", "first", "smallest", "lowest", "least")
LATE, EARLY = ("last", "latest", "most recent", "youngest"), ("first", "earliest", "oldest", "least recent")
MONTHS = ("January February March April May June July August September October November December").split()
NAMES = "Ben Ida Omar Lena Tom Ruth Max Nora Paul Vera".split()
THINGS = "shells coins apples cards stamps nails".split()
LOOKS = "red blue old new small".split()
GAINED, LOST = ("found", "bought", "picked up"), ("lost", "sold", "threw away")
First = tuple[str, str]


class Rows(Generator):
    """Questions about numbers, with their answers."""

    kinds: list[Kind] = Field(list(KINDS), min_length=1, description="what rows are about, each as often as the others")
    largest: PositiveInt = Field(20_000, description="whole numbers are below it")
    part: Literal["seen", "unseen"] = Field("seen", description="of which numbers: those held out are unseen")
    sentences: int = Field(3, ge=2, description="of a story")
    spaced: bool = Field(False, description="whether a space stands between digits, so that each is a token")

    def make(self) -> Iterator[Mapping[str, Any]]:
        rng = random.Random(f"genbert/{self.seed}/{self.part}")
        numbers = [n for n in range(self.largest) if held_out(n) == (self.part == "unseen")] or [self.largest - 1]
        makers = {
            "signed": signed, "extreme": extreme, "named": named, "latest": latest, "between": between,
            "percent": percent,
        }  # fmt: skip
        for _ in range(self.rows):
            kind = rng.choice(self.kinds)
            if kind == "story":
                prompt, answer = story(numbers, self.sentences, rng)
            else:
                prompt, answer = makers[kind](drawn(numbers, rng), rng)
            if self.spaced:
                prompt, answer = spaced(prompt), spaced(answer)
            yield {"prompt": f"{prompt}\n", "completion": answer, "kind": kind}


def held_out(number: int) -> bool:
    """Whether a whole number is one of the fifth that is held out."""
    return hashlib.sha256(f"genbert/{number}".encode()).digest()[0] < 256 * HELD_OUT


def drawn(numbers: Sequence[int], rng: random.Random) -> list[int]:
    """Two to four numbers in hundredths, in half of the draws with decimals."""
    some = [100 * rng.choice(numbers) for _ in range(rng.choice((2, 3, 4)))]
    if rng.random() < 0.5:
        return some
    places = rng.choices((0, 1, 2), (0.2, 0.4, 0.4), k=len(some))
    return [n + (0, 10 * rng.randrange(10), rng.randrange(100))[p] for n, p in zip(some, places, strict=True)]


def text(hundredths: int) -> str:
    """A number of hundredths as it is written: 517.4, -3, 0.05."""
    sign, rest = ("-" if hundredths < 0 else ""), abs(hundredths)
    return f"{sign}{rest // 100}.{rest % 100:02d}".rstrip("0").rstrip(".")


def spaced(said: str) -> str:
    """The text with a space between the digits of a number, and around its point."""
    return re.sub(r"\d+(?:\.\d+)?", lambda found: " ".join(found[0]), said)


def signed(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    signs = [rng.choice((1, -1)) for _ in some]
    said = " ".join(f"{'+' if s > 0 else '-'} {text(n)}" for s, n in zip(signs, some, strict=True))
    return said.removeprefix("+ "), text(sum(s * n for s, n in zip(signs, some, strict=True)))


def extreme(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    value, word = rng.choice(
        (
            (max(some), rng.choice(MOST)),
            (min(some), rng.choice(LEAST)),
            (round(Fraction(sum(some), len(some))), "average"),
        )
    )
    return f"{word}({', '.join(map(text, some))})", text(value)


def named(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, len(some))
    best, word = rng.choice(((max(some), "argmax"), (min(some), "argmin")))
    said = ", ".join(f"{w} {text(n)}" for w, n in zip(words, some, strict=True))
    return f"{word}({said})", words[list(some).index(best)]


def _day(rng: random.Random) -> date:
    return date.fromordinal(rng.randrange(date(100, 1, 1).toordinal(), date(2020, 1, 1).toordinal()))


def _written(day: date, rng: random.Random) -> str:
    month = MONTHS[day.month - 1]
    return rng.choice((f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}"))


def latest(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    first = _day(rng)
    apart = rng.sample(range(1, rng.choice((30, 150)) + 1), len(some) - 1)
    days = [first, *(first + rng.choice((1, -1)) * timedelta(days=d) for d in apart)]
    rng.shuffle(days)
    said = [_written(d, rng) for d in days]
    best, word = rng.choice(((max(days), rng.choice(LATE)), (min(days), rng.choice(EARLY))))
    return f"{word}({'; '.join(said)})", said[days.index(best)]


def between(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    unit, one = rng.choice(("years", "months", "days")), _day(rng)
    other = _day(rng) if unit == "years" else one + timedelta(days=rng.randint(1, rng.choice((60, 200))))
    early, late = min(one, other), max(one, other)
    years = late.year - early.year
    value = {"years": years, "months": 12 * years + late.month - early.month, "days": (late - early).days}[unit]
    said = [_written(d, rng) for d in rng.sample((one, other), 2)]
    return f"difference in {unit}({'; '.join(said)})", str(value)


def percent(some: Sequence[int], rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.choice((3, 4, 5)))
    cuts = sorted(rng.sample(range(1, 10_000), len(words) - 1))
    shares = [b - a for a, b in zip((0, *cuts), (*cuts, 10_000), strict=True)]
    asked = rng.sample(range(len(words)), rng.choice((1, 2)))
    rest, total = rng.random() < 0.5, sum(shares[i] for i in asked)
    said = ", ".join(f"{w} {text(s)}%" for w, s in zip(words, shares, strict=True))
    wanted = ", ".join(words[i] for i in asked)
    return f"percent {'not ' if rest else ''}{wanted} :: {said}", text(10_000 - total if rest else total)


def story(numbers: Sequence[int], sentences: int, rng: random.Random) -> tuple[str, str]:
    """Sentences over a world that counts what each person has, and a question on it."""
    people, thing, looks = rng.sample(NAMES, 3), rng.choice(THINGS), rng.sample(LOOKS, 2)
    has: dict[First, int] = {}
    said: list[str] = []
    while len(said) < sentences:
        a, b = rng.sample(people, 2)
        look, more = rng.choice(looks), 1 + rng.choice(numbers) % 1000
        held = has.get((a, look), 0)
        form = rng.choice(("gain", "gain", "both", "lose", "give")) if len(said) else "both"
        if form in ("lose", "give") and held:
            count = rng.randint(1, held)
            has[a, look] = held - count
            if form == "give":
                has[b, look] = has.get((b, look), 0) + count
                said.append(f"{a} gave {count} {look} {thing} to {b}.")
            else:
                said.append(f"{a} {rng.choice(LOST)} {count} {look} {thing}.")
        elif form == "both":
            verb, other = rng.choice(GAINED), 1 + rng.choice(numbers) % 1000
            said.append(f"{a} {verb} {more} {look} {thing} and {b} {verb} {other} {look} {thing}.")
            has[a, look], has[b, look] = held + more, has.get((b, look), 0) + other
        elif form == "gain":
            said.append(f"{a} {rng.choice(GAINED)} {more} {look} {thing}.")
            has[a, look] = held + more
    question, answer = _asked(has, people, thing, looks, rng)
    return f"{' '.join(said)} {question}", answer


def _asked(
    has: Mapping[First, int], people: Sequence[str], thing: str, looks: Sequence[str], rng: random.Random
) -> tuple[str, str]:
    (a, look), (b, other) = rng.sample(list(has), 2)
    one, two = has[a, look], has[b, other]
    forms = [
        (f"How many {look} {thing} did {a} have in the end?", str(one)),
        (f"How many {thing} did {a} have in the end?", str(sum(has.get((a, x), 0) for x in looks))),
        (f"How many {look} {thing} did they all have in the end?", str(sum(has.get((p, look), 0) for p in people))),
    ]
    if one != two:
        (x, lx), (y, ly) = ((a, look), (b, other)) if one > two else ((b, other), (a, look))
        more = f"How many more {lx} {thing} did {x} have in the end than {y} had {ly} {thing}?"
        forms.append((more, str(abs(one - two))))
        if look == other:
            fewer = rng.random() < 0.5
            said = f"Who had {'fewer' if fewer else 'more'} {look} {thing} in the end, {a} or {b}?"
            forms.append((said, y if fewer else x))
    return rng.choice(forms)
