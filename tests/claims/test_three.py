"""The three cheapest committed claims are run again, two seeds of every arm, and give the numbers that are committed."""

from __future__ import annotations

import platform

import pytest

from tunewright.claims import claim as claims
from tunewright.claims import code_hash, results_io, runner
from tunewright.claims.engine import Local

SEEDS = 2
SAME = 1e-4  # on the kind of machine that made them: the same bits, but for a build of torch that adds in another order
OTHER = {"target": 0.03, "kept": 0.02, "drift": 0.05}  # elsewhere products round differently, and 60 steps let that grow (to 0.005 with AVX2 for AVX-512)


def _cheapest() -> list[tuple[float, str]]:
    """Committed results at scale nano that need no data of one's own and are not stale, cheapest a run first."""
    from tunewright.claims.lab.tasks import task

    found = []
    for name in claims.names():
        result = results_io.read(name, results_io.SHIPPED).get("nano")
        if result is None or result.verdict is None or task(claims.load(name).claim.task).needs_data or code_hash.stale(claims.load(name), result):
            continue
        seconds = [r.seconds or 0.0 for a in result.arms for r in a.runs[:SEEDS]]
        if claims.load(name).measure is None:
            found.append((sum(seconds), name))
    return sorted(found)


@pytest.mark.slow
def test_the_three_cheapest_claims_give_the_committed_numbers(tmp_path):
    chosen = [name for _, name in _cheapest()[:3]]
    if len(chosen) < 3:
        pytest.skip(f"only {len(chosen)} committed results need no data of one's own and are not stale")
    with Local(tmp_path / "trials") as engine:
        _compare(chosen, engine)


def _compare(chosen: list[str], engine: Local) -> None:
    for name in chosen:
        stored = results_io.read(name, results_io.SHIPPED)["nano"]
        same = stored.hardware.get("name") == _processor() and stored.versions.get("python", "").split(".")[:2] == platform.python_version().split(".")[:2]
        for arm, then, now in runner.again(name, "nano", SEEDS, engine=engine, stored=stored):
            where = f"{name}, {arm}, seed {then.seed}"
            assert now.status == then.status, where
            for a, b in zip([then.base, *then.strengths], [now.base, *now.strengths], strict=True):
                assert b.target == pytest.approx(a.target, abs=SAME if same else OTHER["target"]), where
                assert b.drift == pytest.approx(a.drift, abs=SAME if same else OTHER["drift"]), where
                assert b.kept == pytest.approx(a.kept, abs=SAME if same else OTHER["kept"]), where


def _processor() -> str:
    from tunewright.results import processor

    return processor("cpu")
