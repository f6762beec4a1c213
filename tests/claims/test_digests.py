"""Committed digests come out again: a verdict still speaks of the code that is here."""

from __future__ import annotations

import pytest

from tunewright.claims import checking, listing, results_io, runner
from tunewright.claims import claim as claims
from tunewright.claims.behaviour import Digests
from tunewright.claims.lab import tasks

COUNT = 5


def _cheapest() -> list[str]:
    """Claims at scale nano with a digest that need no data of one's own, those of the fewest steps first."""
    steps = []
    for loaded, _, result in listing.stored(claims.names(), results=results_io.SHIPPED, scales=("nano",)):
        if result.digest is not None and not tasks.task(loaded.claim.task).needs_data:
            steps.append((sum(len(r.losses) for r in result.digest.runs.values()), loaded.name))
    return [name for _, name in sorted(steps)]


def _come_out_again(names: list[str]) -> None:
    with Digests() as digests:
        for loaded, scale, result in listing.stored(names, results=results_io.SHIPPED, scales=("nano",)):
            assert checking.declared(loaded, scale, result, listing.base_today(loaded, scale)) == []
            differs, _ = checking.check(loaded, scale, result, digests, runner.lab_recipe(loaded, scale))
            assert differs == [], loaded.name


def test_the_cheapest_comes_out_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    _come_out_again(_cheapest()[:1])


@pytest.mark.slow
def test_a_few_come_out_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    _come_out_again(_cheapest()[1:COUNT])


def test_results_with_a_digest_speak_of_the_claims_that_are_declared():
    """Those without one were not computed again when digests came: they are stale, and say so."""
    with_digest = [s for s in listing.stored(claims.names(), results=results_io.SHIPPED) if s[2].digest is not None]
    assert len(with_digest) >= 43
    for loaded, scale, result in with_digest:
        assert checking.declared(loaded, scale, result) == [], f"{loaded.name}, {scale}: run it again"
        trained = any(run.losses for run in result.digest.runs.values())
        assert trained or result.digest.measured, f"{loaded.name}, {scale}"
