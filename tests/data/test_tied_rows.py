"""Rows that score as the last one that is kept are not told to be below it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunewright.contract.records import Record
from tunewright.data.select._keep import below
from tunewright.data.select.ifd import IFD
from tunewright.data.select.perplexity import Perplexity

LEFT_OUT = "as of rows that stand before it: the number to keep was reached"


@pytest.mark.parametrize(("score", "says"), [(0.5, f"influence 0.5, {LEFT_OUT}"), (0.25, "influence below 0.5")])
def test_a_tie_is_told_as_one(score: float, says: str) -> None:
    assert below("influence", score, 0.5) == says


def records(count: int) -> list[Record]:
    return [Record({"prompt": f"p {i}", "completion": "c"}, id=str(i)) for i in range(count)]


def reader(losses: list[float], alone: list[float] | None = None) -> dict[str, Any]:
    given = iter([losses, alone or losses])
    return {"start": SimpleNamespace(losses=lambda some: torch.tensor(next(given)))}


def test_a_band_among_equals_is_filled_and_others_are_outside_it() -> None:
    equal = Perplexity(low=0.1, high=0.5).select(records(8), reader([1.0] * 8))
    told = [why for i, why in enumerate(equal.reasons or ()) if i not in equal.indices]
    assert told and set(told) == {"perplexity 2.718, as of rows that fill the band from 2.718 to 2.718"}
    apart = Perplexity(low=0.25, high=0.75).select(records(4), reader([0.0, 1.0, 2.0, 3.0]))
    assert [why.partition(" the")[0] for why in apart.reasons or ()] == ["perplexity below", "", "", "perplexity above"]


def test_the_hardest_among_equals_are_the_first_and_the_others_are_tied() -> None:
    found = IFD(keep=2).select(records(5), reader([1.0] * 5, [2.0] * 5))
    assert found.indices == [0, 1] and found.reasons == ["", "", *[f"difficulty 0.5, {LEFT_OUT}"] * 3]
