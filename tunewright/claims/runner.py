"""Run a claim: choose each arm's rate alike on validation rows, run every seed of every arm, then judge.

Every run goes through one store and is found there by its hash: a baseline is run once a lab task, a claim that was
stopped goes on where it was, and nothing is judged before all runs are there.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunewright.claims import code_hash, judging, metrics, results_io, tested
from tunewright.claims.claim import Arm, Claim, Loaded, Scale, load
from tunewright.claims.claim_run import ClaimRun, recipe_of
from tunewright.claims.engine import TUNING_SEEDS, Engine, Search
from tunewright.claims.results_io import Amount, ArmResult, RunResult, ScaleResult
from tunewright.errors import ClaimError, TunewrightError
from tunewright.files.cache import cache_folder, write_json

Say = Callable[[int, int, str], None]  # (runs done, runs in all as far as is known, what)


def silent(done: int, total: int, what: str) -> None:
    """Show nothing."""


class _Count:
    """What is done and to do, what it took, and what one run says of the machine.

    `tuning` runs choose rates, at least: a grid may go on. `judged` come after them: runs, or seeds of a measure.
    """

    def __init__(self, tuning: int, judged: int, say: Say):
        self.total, self.ahead, self.say = tuning + judged, judged, say
        self.done = 0
        self.seen: dict[str, Any] = {}

    def __call__(self, record: Any) -> None:
        self.seen[record.key] = record
        self.one(f"{record.arm}, seed {record.seed}: {record.status}")

    def one(self, what: str) -> None:
        """One more is done; what comes after the tuning is never counted as done before it is."""
        self.done += 1
        self.total = max(self.total, self.done + self.ahead)
        self.say(self.done, self.total, what)

    def judging(self, left: int) -> None:
        """The tuning is over, whether longer or shorter than was thought, and so many are left."""
        self.total, self.ahead = self.done + left, 0

    @property
    def seconds(self) -> float:
        return sum(r.seconds or 0.0 for r in self.seen.values())


def lab_recipe(loaded: Loaded, scale: Scale) -> Mapping[str, Any]:
    """The claim's lab task, or its own, as a recipe without methods. ClaimError where the claim cannot be run at this
    scale.
    """
    from tunewright.claims.lab.tasks import task

    claim = loaded.claim
    claim.at_scale(scale)
    if loaded.recipe is not None:
        return dict(loaded.recipe(scale))
    return task(claim.task).recipe(scale)


def run_claim(
    name: str,
    scale: Scale = "nano",
    *,
    engine: Engine,
    results: Path | None = None,
    say: Say = silent,
    claims: Path | None = None,
    task: Mapping[str, Any] | None = None,
    seeds: range | None = None,
) -> ScaleResult:
    """Run, judge and store one claim at one scale; see the module.

    `task` stands in for the lab task's recipe, `claims` for the folder of claims, `results` for that of results;
    `seeds` for the claim's own (0 on), of tuning too.
    """
    loaded = load(name, claims) if claims is not None else load(name)
    claim = loaded.claim.at_scale(scale)
    if seeds is not None:
        claim = claim.model_copy(update={"seeds": len(seeds)})
    task = task if task is not None else lab_recipe(loaded, scale)
    result = results_io.begin(loaded.name, scale, _begun(loaded, claim, scale), results)
    tuning = sum(TUNING_SEEDS * len(claim.rates_of(a)) for a in claim.arms if a.methods)
    count = _Count(tuning, claim.seeds * (1 if loaded.measure is not None else len(claim.arms)), say)
    run = ClaimRun(claim, scale, task, engine, cache_folder() / "claims" / loaded.name / scale)
    run.first = seeds.start if seeds is not None else 0
    searches = {arm.name: _search(run, arm) for arm in claim.arms if arm.methods and claim.rates_of(arm)}
    tuned = engine.tune(searches, count) if searches else {}
    matched = metrics.find(claim.metric)[2] or claim.metric.startswith(("kept", "drift"))
    run.rates = {name: t.smallest if matched else t.rate for name, t in tuned.items()}
    best = _best(claim, tuned, count) if claim.against == "best" else None
    _digest(loaded, run, engine, result)
    if loaded.measure is not None:
        _measure(loaded, run, result, count, best)
    else:
        _compare(run, engine, result, count, best)
    for arm in result.arms:
        if arm.name in tuned:
            arm.rate, arm.tuned = (
                run.rates[arm.name],
                [a.model_dump(mode="json", exclude={"key", "error"}) for a in tuned[arm.name].attempts],
            )
    _describe(result, count)
    tested.settle(claim, result)
    return results_io.finish(loaded.name, scale, result, results)


def _begun(loaded: Loaded, claim: Claim, scale: Scale) -> ScaleResult:
    return ScaleResult(
        paper=claim.paper,
        metric=claim.metric,
        direction=claim.direction,
        smallest=claim.smallest,
        claim=claim.model_dump(mode="json", exclude_defaults=True),
        started=datetime.now(UTC),
        claim_hash=code_hash.of_claim(loaded, scale),
        method_hash=code_hash.of_methods(claim),
    )


def _search(run: ClaimRun, arm: Arm) -> Search:
    return Search(
        lambda rate, seed: recipe_of(run.task, run.claim, arm, run.first + seed, rate), run.claim.rates_of(arm)
    )


def _best(claim: Claim, tuned: Mapping[str, Any], count: _Count) -> str:
    """The baseline with the best validation score: chosen without a look at the rows that are judged."""
    scores = {
        b.name: tuned[b.name].score for b in claim.baselines if b.name in tuned and tuned[b.name].rate is not None
    }
    if not scores:
        raise ClaimError(
            "no baseline gave a finished run on validation rows, so none is best",
            remedy="look at the tuned attempts in the result",
        )
    sign = 1 if next(r.direction for r in count.seen.values() if r.status == "finished") == "higher" else -1
    return max(scores, key=lambda n: sign * scores[n])


def _compare(run: ClaimRun, engine: Engine, result: ScaleResult, count: _Count, best: str | None) -> None:
    """All seeds of all arms in one go, then the verdict."""
    claim = run.claim
    able = [a for a in claim.arms if run.rates.get(a.name, "its own") is not None]
    trials = [
        engine.trial(a.name, s, recipe_of(run.task, claim, a, s, run.rates.get(a.name)))
        for a in able
        for s in run.seeds
    ]
    count.judging(len(trials))
    run_records = engine.run_all(trials, count)
    records = {a.name: run_records[i * claim.seeds : (i + 1) * claim.seeds] for i, a in enumerate(able)}
    result.arms = [
        ArmResult(
            name=a.name,
            methods=a.methods,
            runs=[judging.run_result(claim, s, r) for s, r in zip(run.seeds, records[a.name], strict=True)]
            if a.name in records
            else _none_finished(run.seeds),
        )
        for a in claim.arms
    ]
    result.failed_runs = sum(r.status != "finished" for a in result.arms for r in a.runs)
    every = {a.name: records.get(a.name) or [_Unfinished()] * claim.seeds for a in claim.arms}
    result.pairs, result.judged, result.best = *judging.judge_records(claim, every, best), best


class _Unfinished:
    """The record of a run that was not tried, because none of its arm finished while tuning."""

    status = "failed"


def _none_finished(seeds: range) -> list[RunResult]:
    return [RunResult(seed=s, status="failed", error="no learning rate gave a finished run") for s in seeds]


def _measure(loaded: Loaded, run: ClaimRun, result: ScaleResult, count: _Count, best: str | None) -> None:
    """The claim's own measure, seed by seed; what it gave is kept until claim, methods, rates or task change."""
    claim = run.claim
    decides = [result.claim_hash, result.method_hash, run.rates, json.dumps(run.task, sort_keys=True, default=str)]
    folder = run.folder / hashlib.sha256(repr(decides).encode()).hexdigest()[:16]
    run.folder = folder
    values: list[dict[str, float] | None] = []
    errors: list[str | None] = []
    count.judging(claim.seeds)
    for seed in run.seeds:
        kept = folder / f"seed-{seed}.json"
        if kept.exists():
            values.append(json.loads(kept.read_text(encoding="utf-8")))
            errors.append(None)
        else:
            value, error = _one_seed(loaded, run, seed)
            values.append(value)
            errors.append(error)
            if value is not None:
                write_json(kept, value)
        count.one(f"measured seed {seed}")
    result.arms = judging.measured_arms(claim, values, errors, run.first)
    result.failed_runs = sum(v is None for v in values)
    result.pairs, result.judged, result.best = *judging.judge_measured(claim, values, best), best


def _one_seed(loaded: Loaded, run: ClaimRun, seed: int) -> tuple[dict[str, float] | None, str | None]:
    try:
        figures = {k: float(v) for k, v in loaded.measure(run, seed).items()}
    except TunewrightError as error:
        return None, f"{type(error).__name__}: {error.what}"
    missing = [a.name for a in run.claim.arms if a.name not in figures]
    if missing:
        raise ClaimError(
            f"measure gave no figure for {', '.join(missing)}",
            where=str(loaded.file),
            remedy="return one figure an arm, under its name",
        )
    return figures, None


def _describe(result: ScaleResult, count: _Count) -> None:
    """Verdict, machine, versions and time."""
    assert result.judged is not None
    result.status = "judged"
    result.finished, result.seconds = datetime.now(UTC), round(count.seconds, 1) or None
    some = next((r for r in count.seen.values() if r.status == "finished"), None)
    if some is None:
        return
    result.hardware = {k: v for k, v in some.hardware.items() if v is not None}
    result.threads, result.versions, result.commit = some.threads, dict(some.versions), some.commit
    result.base_hash, result.target_unit = some.base_hash, some.target_unit
    result.amount = _amount(some)


def _amount(record: Any) -> Amount:
    """How much a run trained, as its record has it."""
    passes = [s["epochs"] for s in record.stages if s.get("epochs") is not None]
    return Amount(
        steps=record.cost.get("steps"),
        tokens=record.cost.get("tokens"),
        passes=round(sum(passes) / len(passes), 3) if passes else None,
    )


def _digest(loaded: Loaded, run: ClaimRun, engine: Engine, result: ScaleResult) -> None:
    """What the arms do in their first steps; or why that is not written down, which is said before hours of seeds."""
    try:
        result.digest = engine.digest(loaded, run.scale, run.rates, run.task)
    except TunewrightError as error:
        result.no_digest = error.what
        print(f"{loaded.name}: no digest of its first steps will be written: {error}", file=sys.stderr)


def again(
    name: str, scale: Scale, seeds: int, *, engine: Engine, stored: ScaleResult, task: Mapping[str, Any] | None = None
) -> list[tuple[str, RunResult, RunResult]]:
    """Run the first seeds of a stored result once more, at its rates: [(arm, then, now)].

    Nothing is judged or written.
    """
    loaded = load(name)
    claim = loaded.claim.at_scale(scale)
    task = task if task is not None else lab_recipe(loaded, scale)
    rates = {a.name: a.rate for a in stored.arms}
    pairs = [(a, s) for a in claim.arms for s in range(seeds)]
    trials = [engine.trial(a.name, s, recipe_of(task, claim, a, s, rates[a.name])) for a, s in pairs]
    records = engine.run_all(trials, lambda record: None)
    then = {(a.name, r.seed): r for a in stored.arms for r in a.runs}
    return [
        (a.name, then[a.name, s], judging.run_result(claim, s, record))
        for (a, s), record in zip(pairs, records, strict=True)
    ]
