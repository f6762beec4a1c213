"""`claims/results/<name>.json`: what a claim's runs gave, scale by scale. Every attempt is kept.

A file is {scale: result}. A result that is begun is written before its first run, so that one which is given up, or
whose claim was changed half-way, stays visible in `earlier`. A file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.claims.rule import Verdict
from tunewright.errors import ClaimError
from tunewright.files.cache import cache_folder, write_json
from tunewright.machine import installed

Found = Literal["holds", "fails", "unclear", "not tested"]
SHIPPED = Path(__file__).parent / "results"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Figures(_Part):
    """The figures at one strength."""

    strength: float
    target: float | None = None
    kept: dict[str, float] = Field(default_factory=dict, description="loss, nats per token")
    drift: float | None = None


class RunResult(_Part):
    """One seed of one arm."""

    seed: int
    status: str = Field(description="finished, failed or killed")
    error: str | None = Field(None, description="what stopped it")
    figure: float | None = Field(
        None, description="the claim's metric (at matched target it stands with the pair instead)"
    )
    base: Figures | None = Field(None, description="the untouched base")
    strengths: list[Figures] = Field(default_factory=list)
    seconds: float | None = Field(None, description="of the whole trial, measuring included")
    key: str | None = Field(None, description="the trial's key in the store")
    attempt: int = Field(1, description="how many times this run was begun")
    other: dict[str, float] = Field(default_factory=dict, description="further figures of the claim's own measure")

    @property
    def tuned(self) -> float | None:
        """The target at full strength."""
        return next((s.target for s in self.strengths if s.strength == 1.0), None)


class ArmResult(_Part):
    """One arm: the rate chosen on validation rows with every attempt at it, and its runs."""

    name: str
    methods: list[Any]
    rate: float | None = Field(
        None, description="learning rate chosen; none: no rate gave a finished run, or nothing to choose"
    )
    tuned: list[dict[str, Any]] = Field(
        default_factory=list, description="every rate and seed tried, with its validation score"
    )
    runs: list[RunResult] = Field(default_factory=list)


class Crossed(_Part):
    """How sure the mean effect is over seeds and rows at once (`measure.crossed`)."""

    error: float = Field(description="standard error")
    df: float = Field(description="degrees of freedom")
    rows: int = Field(description="rows that every seed was judged on")


class PairResult(_Part):
    """Method against one baseline, seed by seed."""

    baseline: str
    effects: list[float | None] = Field(description="one per seed, positive where the method is better; null: none")
    crossed: Crossed | None = Field(None, description="of a claim that is judged over seeds and rows")
    matched: list[dict[str, Any]] = Field(
        default_factory=list, description="at matched target: the target, both figures, or why not"
    )


class Amount(_Part):
    """How much a run trained; every arm has the same budget."""

    steps: int | None = Field(None, description="optimizer steps, of all stages")
    tokens: int | None = Field(None, description="tokens (or pictures) that went through training")
    passes: float | None = Field(None, description="passes over the rows of a stage, the mean of its stages")


class ShortRun(_Part):
    """What one run, cut short, did."""

    losses: list[float] = Field(description="of every step, stage after stage, nats per token (or a row)")
    figures: dict[str, float] = Field(description="all that was read, by path; the claim's metric under its name")
    refused: str | None = Field(None, description="what stopped it")
    unit: str = Field("fraction", description="the target's")


class Behaviour(_Part):
    """A behaviour digest (see `behaviour`)."""

    machine: dict[str, str] = Field(description="where it was computed: instructions and libraries")
    runs: dict[str, ShortRun] = Field(description="by arm, or in the order in which the claim's measure asks for them")
    measured: dict[str, float] = Field(
        default_factory=dict, description="what the claim's own measure gives on them, and norms of merges"
    )
    refused: str | None = Field(None, description="why its measure gives nothing on runs so short")


class ScaleResult(_Part):
    """A claim's result at one scale."""

    verdict: Found | None = Field(
        None, description="holds, fails, unclear, or 'not tested'; null until every run is there"
    )
    untested: str | None = Field(None, description="why nothing was tested, whatever the effect")
    status: Literal["running", "judged", "abandoned"] = "running"
    interval: dict[str, Any] | None = Field(None, description="mean effect and its 95 % interval over seeds")
    judged: Verdict | None = Field(None, description="what the rule says in full")
    paper: str
    metric: str
    direction: str
    smallest: float
    claim: dict[str, Any] = Field(description="the claim as it was declared")
    arms: list[ArmResult] = Field(default_factory=list)
    pairs: list[PairResult] = Field(default_factory=list)
    best: str | None = Field(None, description="the one baseline that is judged against, where that is the best")
    amount: Amount | None = Field(None, description="how much each run trained; none: nothing was noted")
    target_unit: str | None = Field(None, description="of the task's headline metric; none: see the digest")
    failed_runs: int = Field(0, description="runs that failed or were killed, counted in the verdict")
    hardware: dict[str, Any] = Field(default_factory=dict)
    threads: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    started: datetime
    finished: datetime | None = None
    seconds: float | None = Field(None, description="of all its runs' own time, those reused from the store included")
    claim_hash: str = Field(description="of what the claim declares at this scale")
    method_hash: str = Field(description="of what the files of its arms' methods do")
    base_hash: str | None = None
    digest: Behaviour | None = Field(None, description="what its arms do in their first steps")
    no_digest: str | None = Field(None, description="why there is none; the methods' files stand in for it")
    attempts: int = Field(1, description="this one and the earlier ones")
    earlier: list[dict[str, Any]] = Field(default_factory=list, description="earlier attempts, oldest first, whole")

    @property
    def is_share(self) -> bool:
        """Whether the target is a share of rows, and so between 0 and 1, higher being better."""
        if self.target_unit is not None:
            return self.target_unit == "fraction"
        return self.digest is not None and any(run.unit == "fraction" for run in self.digest.runs.values())

    def same_numbers(self, other: ScaleResult) -> bool:
        """Whether another result says the same of every run: then it is no new attempt."""
        return self.verdict == other.verdict and [a.model_dump() for a in self.arms] == [
            a.model_dump() for a in other.arms
        ]


def folder(asked: Path | None = None, name: str = "") -> Path:
    """Where results are written: the folder asked for, the package's own where it may be written, else the cache. Those
    of other packages' claims are never written into this one.
    """
    if asked is not None:
        return asked
    if name in installed.points(installed.CLAIMS):
        return cache_folder() / "claims" / "results"
    return (
        SHIPPED
        if os.access(SHIPPED if SHIPPED.exists() else SHIPPED.parent, os.W_OK)
        else cache_folder() / "claims" / "results"
    )


def read(name: str, where: Path | None = None) -> dict[str, ScaleResult]:
    """A claim's results by scale; empty where there are none. ClaimError for a file that is not one."""
    path = folder(where, name) / f"{name}.json"
    if not path.exists():
        return {}
    try:
        return {
            scale: ScaleResult.model_validate(found)
            for scale, found in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, AttributeError, ValidationError) as error:
        raise ClaimError(
            f"not a claim's result: {error}",
            where=str(path),
            remedy="restore the file, or move it away and run the claim again",
        ) from error


def write(name: str, scale: str, result: ScaleResult, where: Path | None = None) -> Path:
    """Put one scale's result into the claim's file; the other scale stays as it is."""
    path = folder(where, name) / f"{name}.json"
    every = {**read(name, where), scale: result}
    write_json(
        path,
        {
            s: r.model_dump(mode="json", exclude_defaults=True) | {"verdict": r.verdict, "status": r.status}
            for s, r in sorted(every.items())
        },
    )
    return path


def begin(name: str, scale: str, result: ScaleResult, where: Path | None = None) -> ScaleResult:
    """Write down that an attempt begins.

    What stands there becomes an earlier one, unless it is this one, interrupted.
    """
    before = read(name, where).get(scale)
    if before is not None:
        if before.status == "running" and (before.claim_hash, before.method_hash) == (
            result.claim_hash,
            result.method_hash,
        ):
            result.earlier, result.started = before.earlier, before.started
        else:
            if before.status == "running":
                before.status = "abandoned"
            result.earlier = [
                *before.earlier,
                before.model_dump(mode="json", exclude={"earlier"}, exclude_defaults=True),
            ]
        result.attempts = 1 + len(result.earlier)
    write(name, scale, result, where)
    return result


def finish(name: str, scale: str, result: ScaleResult, where: Path | None = None) -> ScaleResult:
    """Write a judged result.

    Where the attempt before it gave the very same numbers from the same code, it stays one attempt.
    """
    if result.earlier:
        last = ScaleResult.model_validate(result.earlier[-1])
        if last.status == "judged" and (last.claim_hash, last.method_hash, last.base_hash) == (
            result.claim_hash,
            result.method_hash,
            result.base_hash,
        ):
            if result.same_numbers(last):
                result.earlier = result.earlier[:-1]
                result.attempts = 1 + len(result.earlier)
    write(name, scale, result, where)
    return result
