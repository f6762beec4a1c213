"""Judge stored results again by today's rule, from the figures that they hold: `python -m tunewright.claims.rejudge`.

Nothing is run. What a rule that changed makes of a result is written into its file, and each verdict that is another
one than before is named. What came before in the same file (`earlier`) stays as it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunewright.claims import claim as claims
from tunewright.claims import judging, listing, metrics, results_io, tested
from tunewright.claims.claim import Claim
from tunewright.claims.results_io import ArmResult, PairResult, RunResult, ScaleResult
from tunewright.claims.rule import effects


def rejudged(claim: Claim, result: ScaleResult) -> ScaleResult:
    """A copy of a judged result with effects, verdict and reasons by today's rule. `claim`: as it is at that scale."""
    again = result.model_copy(deep=True)
    arms = {a.name: a for a in again.arms}
    method, baselines = arms[claim.method.name], [arms[b.name] for b in claim.baselines]
    again.pairs = [_pair(claim, again, method, b) for b in baselines] or [
        PairResult(
            baseline=judging.ALONE,
            effects=effects([r.figure for r in method.runs], [0.0] * len(method.runs), claim.direction),
        )
    ]
    again.judged = judging.judge_pairs(claim, again.pairs, again.best)
    tested.settle(claim, again)
    return again


def _pair(claim: Claim, result: ScaleResult, method: ArmResult, baseline: ArmResult) -> PairResult:
    if metrics.find(claim.metric)[2]:
        return judging.pair_up(
            claim, [_record(r, result) for r in method.runs], [_record(r, result) for r in baseline.runs], baseline.name
        )
    figures = [[r.figure for r in arm.runs] for arm in (method, baseline)]
    return PairResult(
        baseline=baseline.name,
        effects=effects(figures[0], figures[1], claim.direction, relative=claim.relative),
        crossed=next((p.crossed for p in result.pairs if p.baseline == baseline.name), None),
    )


def _record(run: RunResult, result: ScaleResult) -> Any:
    """A stored run as the record that curves are read from."""
    return SimpleNamespace(
        status=run.status,
        base=run.base,
        strengths=run.strengths,
        direction="higher" if result.is_share else "lower",
    )


def every(names: Sequence[str], where: Path | None = None) -> Iterator[tuple[str, str, ScaleResult, ScaleResult]]:
    """(claim, scale, before, after) of each judged result whose runs the claim still names."""
    for loaded, scale, result in listing.stored(names, results=where):
        if result.status != "judged" or scale not in loaded.claim.scales:
            continue
        claim = loaded.claim.at_scale(scale)
        if {a.name for a in claim.arms} == {a.name for a in result.arms}:
            yield loaded.name, scale, result, rejudged(claim, result)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tunewright.claims.rejudge", description="judge stored results again, without running anything"
    )
    parser.add_argument("names", nargs="*", help="claims (default: all)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where results are (default: as shipped)")
    asked = parser.parse_args()
    for name, scale, before, after in every(asked.names or claims.names(), asked.results):
        if before.verdict != after.verdict:
            print(f"{name} ({scale}): {before.verdict} -> {after.verdict}: {after.untested or 'by its effects'}")
        if before != after:
            results_io.write(name, scale, after, asked.results)


if __name__ == "__main__":
    main()
