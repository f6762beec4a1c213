"""An arm that finishes at no learning rate says why, where there is one reason."""

from __future__ import annotations

import pytest

from tunewright.compare.comparison import _untuned
from tunewright.trials.tuning import Attempt, Tuned


@pytest.mark.parametrize(
    ("whys", "said"),
    [
        (("its head is new", "its head is new"), "let it finish: its head is new"),
        (("its head is new", "it diverged"), "let it finish"),
        (("", ""), "let it finish"),
    ],
)
def test_the_one_reason_is_told(whys: tuple[str, str], said: str) -> None:
    attempts = [
        Attempt(rate=r, seed=0, status="failed", key="k", error=w) for r, w in zip((1e-5, 1e-3), whys, strict=True)
    ]
    record = _untuned("less", 0, Tuned(rate=None, attempts=attempts))
    assert record.error is not None
    assert record.error.message == f"no learning rate from 1e-05 to 0.001 {said}"
