"""GenBERT's rows: every answer worked out anew from what the prompt says, numbers held out, digits apart."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest

from tunewright.data.generators.genbert import EARLY, KINDS, LEAST, MONTHS, MOST, Rows, held_out, spaced
from tunewright.data.read import read_all
from tunewright.recipe.source import Source

COUNT = 400


def rows(*kinds: str, **more: Any) -> list[tuple[str, str]]:
    return [(r["prompt"], r["completion"]) for r in Rows(**{"rows": COUNT, "kinds": list(kinds), **more}).make()]


def numbers(said: str) -> list[Decimal]:
    return [Decimal(n) for n in re.findall(r"\d+(?:\.\d+)?", said)]


def test_sums_and_extremes_are_those_of_decimals() -> None:
    for prompt, answer in rows("signed"):
        tokens = (prompt if prompt[0] in "+-" else f"+ {prompt}").split()
        total = sum((1 if s == "+" else -1) * Decimal(n) for s, n in zip(tokens[::2], tokens[1::2], strict=True))
        assert Decimal(answer) == total and answer == f"{Decimal(answer).normalize():f}"
    words = Counter[str]()
    for prompt, answer in rows("extreme"):
        word, said = prompt.split("(")
        found = numbers(said)
        mean = (sum(found) / len(found)).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        assert Decimal(answer) == (max(found) if word in MOST else min(found) if word in LEAST else mean)
        words[word] += 1
    assert set(words) == {*MOST, *LEAST, "average"} and words["average"] > COUNT / 4
    for prompt, answer in rows("named"):
        pairs = {w: Decimal(n) for w, n in re.findall(r"(\w+) ([\d.]+\d|\d)", prompt.partition("(")[2])}
        assert answer == (max if prompt.startswith("argmax") else min)(pairs, key=lambda w: pairs[w])
    ways = Counter(len(numbers(p)) for p, _ in rows("named"))
    assert set(ways) == {2, 3, 4} and min(ways.values()) > COUNT / 5


def test_shares_sum_to_all_and_answers_to_those_that_are_asked_for() -> None:
    for prompt, answer in rows("percent"):
        asked, _, told = prompt.partition(" :: ")
        shares = {w: Decimal(n) for w, n in re.findall(r"(\w+) ([\d.]+)%", told)}
        assert sum(shares.values()) == 100 and 3 <= len(shares) <= 5
        names = asked.removeprefix("percent ").removeprefix("not ").split(", ")
        total = sum(shares[w] for w in names)
        assert Decimal(answer) == (100 - total if asked.startswith("percent not ") else total)


def day_of(said: str) -> date:
    year, month = int(said.split()[-1]), next(m for m in MONTHS if m in said)
    return date(year, MONTHS.index(month) + 1, int(re.findall(r"\d+", said)[0]))


def test_dates_are_those_of_the_calendar() -> None:
    for prompt, answer in rows("latest"):
        word, said = prompt.strip().rstrip(")").split("(")
        days = said.split("; ")
        assert answer == (min if word in EARLY else max)(days, key=day_of)
    for prompt, answer in rows("between"):
        one, two = sorted(day_of(d) for d in prompt.strip().rstrip(")").split("(")[1].split("; "))
        unit = prompt.split("(")[0].split()[-1]
        months = 12 * (two.year - one.year) + two.month - one.month
        assert int(answer) == {"days": (two - one).days, "months": months, "years": two.year - one.year}[unit]


def told(prompt: str) -> dict[tuple[str, str], int]:
    """Who has how many in the end, read sentence by sentence."""
    has = Counter[tuple[str, str]]()
    for sentence in prompt.split(". ")[:-1]:
        for part in sentence.split(" and "):
            who, verb, count, look, rest = re.match(r"(\w+) (\w+(?: \w+)?) (\d+) (\w+) (.*)", part).groups()  # type: ignore[union-attr]
            sign = -1 if verb in ("lost", "sold", "threw away", "gave") else 1
            has[who, look] += sign * int(count)
            if verb == "gave":
                has[rest.split(" to ")[1], look] += int(count)
    return has


def test_stories_keep_count() -> None:
    asked = Counter[str]()
    for prompt, answer in rows("story", sentences=5):
        has, question = told(prompt), prompt.strip().split(". ")[-1]
        assert min(has.values()) >= 0
        if found := re.match(r"How many more (\w+) \w+ did (\w+) have in the end than (\w+) had (\w+)", question):
            look, a, b, other = found.groups()
            expected = str(has[a, look] - has[b, other])
            asked["difference"] += 1
        elif found := re.match(r"Who had (\w+) (\w+) \w+ in the end, (\w+) or (\w+)", question):
            way, look, a, b = found.groups()
            expected = (min if way == "fewer" else max)((a, b), key=lambda p: has[p, look])
            asked["who"] += 1
        elif found := re.match(r"How many (\w+) \w+ did they all", question):
            expected = str(sum(n for (_, look), n in has.items() if look == found[1]))
            asked["all"] += 1
        elif found := re.match(r"How many (\w+) \w+ did (\w+) have", question):
            expected = str(has[found[2], found[1]])
            asked["one"] += 1
        else:
            who = re.match(r"How many \w+ did (\w+) have", question)
            assert who is not None, question
            expected = str(sum(n for (p, _), n in has.items() if p == who[1]))
            asked["kind"] += 1
        assert answer == expected and not answer.startswith("-"), prompt
        assert prompt.count(". ") == 5
    assert set(asked) == {"difference", "who", "all", "one", "kind"} and min(asked.values()) > COUNT / 40


def test_numbers_that_are_held_out_are_in_no_seen_row() -> None:
    seen, unseen = (
        {int(n) for p, _ in rows("signed", "named", part=x) for n in numbers(p)} for x in ("seen", "unseen")
    )
    assert not seen & unseen and not any(map(held_out, seen)) and all(map(held_out, unseen))
    assert 0.17 < sum(map(held_out, range(20_000))) / 20_000 < 0.23
    assert max(int(n) for p, _ in rows("extreme", largest=50) for n in numbers(p)) < 50
    whole = sum(all(n == int(n) for n in numbers(p)) for p, _ in rows("signed"))
    assert COUNT * 0.45 < whole < COUNT * 0.65


def test_equal_parameters_make_equal_rows_each_decides_and_digits_stand_apart() -> None:
    first = list(Rows(rows=40).make())
    assert first == list(Rows(rows=40).make()) and list(Rows(rows=20).make()) == first[:20]
    assert {r["kind"] for r in Rows(rows=COUNT).make()} == set(KINDS)
    for more in ({"seed": 1}, {"kinds": ["signed"]}, {"largest": 9}, {"part": "unseen"}, {"sentences": 6}):
        assert list(Rows(**{"rows": 40, **more}).make()) != first
    apart = list(Rows(rows=40, spaced=True).make())
    for one, plain in zip(apart, first, strict=True):
        assert not re.search(r"\d\d|\d\.\d", one["prompt"] + one["completion"])
        closed = re.sub(r"(?<=[\d.]) (?=[\d.])", "", one["prompt"])
        assert closed == re.sub(r"(?<=[\d.]) (?=[\d.])", "", plain["prompt"])
    assert spaced("a 12.5, b 3. c10") == "a 1 2 . 5, b 3. c1 0"
    with pytest.raises(ValueError):
        Rows(kinds=[])


def test_rows_are_read_like_a_files(tmp_path: Path) -> None:
    source = Source(path="make:genbert", parameters={"rows": 12, "kinds": ["signed", "story"]})
    found = read_all(source, tmp_path).records
    assert len(found) == 12 and {r["kind"] for r in found} == {"signed", "story"} and found[0]["completion"]
