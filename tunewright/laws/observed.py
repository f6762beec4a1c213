"""What finished runs say that laws are fitted to, read from their folders; runs that do not go together are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import NonFiniteError, RecipeError, did_you_mean
from tunewright.finished.run import Run
from tunewright.laws.cmr_scaling_law import Point
from tunewright.laws.cpt_dynamics_law import Curve
from tunewright.report.schema import Report

REMEDY = "fit laws to runs that differ in data.replay, budget, learning rate and seed alone"


@dataclass(frozen=True)
class Observed:
    """One run. `point`: the losses at its end; none: it kept no text or its target is no loss. `curve`: its held-out
    losses while training; none: there were no evaluations. `same`: what has to be equal between runs, in words.
    """

    name: str
    share: float
    tokens: int
    steps: int
    base: tuple[float, float] | None
    point: Point | None
    curve: Curve | None
    followed: str
    same: dict[str, Any]
    settings: dict[str, Any]


def observe(folder: str | Path, keep: str | None = None) -> Observed:
    """Read a finished run. `keep`: the kept text that is the general one; none: the only one that has a loss.

    FolderError for what is no finished run's folder, RecipeError for a run of several stages, NonFiniteError for a
    figure that is not finite.
    """
    run, name = Run(folder), str(folder)
    recipe, report = run.recipe, run.report
    if len(recipe.stages) != 1:
        raise RecipeError(f"it trained in {len(recipe.stages)} stages, and laws are of one", where=name, remedy=REMEDY)
    stage = recipe.stages[0]
    replay = recipe.data_for(stage).replay
    share = round(1 - sum(replay.values()), 9)
    base, point = _ends(name, report, keep, share)
    curve = _curve(name, run, share)
    validation = recipe.data.validation
    texts = recipe.data.eval if validation is None else validation
    followed = ", ".join(s.name or s.path for s in texts) if isinstance(texts, list) else "rows held out from training"
    sources = {(s.role, s.rows, s.tokens) for s in report.data.sources if s.role in ("eval", "validation")}
    same = {
        "base": report.model.hash if report.model else None,
        "training rows": report.data.hash,
        "methods": [(m.name, sorted((k, repr(v)) for k, v in m.parameters.items())) for m in report.trained.methods],
        "held-out rows": sorted(sources, key=repr),
        "replayed texts": sorted(Path(p).name for p in replay) or None,
    }
    train = recipe.train_for(stage)
    settings = {
        "learning rate": train.learning_rate,
        "schedule": train.lr_scheduler_type,
        "warm-up": train.warmup_steps,
        "batch": train.batch_tokens,
    }
    steps = report.cost.steps or 0
    return Observed(name, share, report.cost.tokens or 0, steps, base, point, curve, followed, same, settings)


def _ends(name: str, report: Report, keep: str | None, share: float) -> tuple[tuple[float, float] | None, Point | None]:
    """(losses of the base on domain and general text, those of the tuned model)."""
    kept = {k.name or "": k for k in report.kept if k.metric == "loss"}
    if keep is not None and keep not in kept:
        raise RecipeError(
            f"no kept text '{keep}' with a loss", where=name, remedy=did_you_mean(keep, kept) or "see the run's report"
        )
    if keep is None and len(kept) > 1:
        raise RecipeError(
            f"it kept {', '.join(kept)}, of which one is the general text",
            where=name,
            remedy=f"--keep {next(iter(kept))}",
        )
    general, domain = kept[keep] if keep is not None else next(iter(kept.values()), None), report.target
    if general is None or domain is None or domain.metric != "loss":
        return None, None
    read = [
        i.value if i is not None else math.nan for i in (domain.before, general.before, domain.after, general.after)
    ]
    if report.cost.tokens is None or not all(math.isfinite(v) and v > 0 for v in read):
        raise _not_finite(name, "the losses of its report")
    return (read[0], read[1]), Point(name, share, float(report.cost.tokens), read[2], read[3])


def _curve(name: str, run: Run, share: float) -> Curve | None:
    rates: dict[int, float] = {}
    points: dict[int, float] = {}
    for record in run.metrics:
        step = record.get("step", 0)
        if "learning_rate" in record:
            rates[step] = record["learning_rate"]
        if "eval_loss" in record:
            points[step] = record["eval_loss"]
    last = max(rates, default=0)
    if not points or sorted(rates) != list(range(1, last + 1)):  # train.logging_steps above 1 leaves rates out
        return None
    if not all(math.isfinite(v) for v in (*rates.values(), *points.values())) or min(points.values()) <= 0:
        raise _not_finite(name, "metrics.jsonl")
    each = tuple(sorted(points.items()))
    return Curve(name, share, tuple(rates[i] for i in range(1, last + 1)), each) if each[-1][0] <= last else None


def _not_finite(name: str, what: str) -> NonFiniteError:
    return NonFiniteError(
        f"{what} hold a value that is no positive, finite loss", where=name, remedy="leave this run out"
    )


def comparable(runs: Sequence[Observed]) -> None:
    """RecipeError that names the first two runs that are of another base, other rows, methods or kept texts."""
    first = runs[0]
    replayed = next((r for r in runs if r.same["replayed texts"]), None)
    for run in runs[1:]:
        for what, value in run.same.items():
            if what == "replayed texts":
                continue
            if value != first.same[what]:
                raise _apart(first, run, what)
        if run.base is not None and first.base is not None and not _equal(run.base, first.base):
            raise _apart(first, run, "losses of the base, so that they were measured on other texts or rows")
        if replayed and run.same["replayed texts"] not in (None, replayed.same["replayed texts"]):
            raise _apart(replayed, run, "replayed texts")
    known: dict[tuple[Any, ...], str] = {}
    for run in runs:
        if run.point is None:
            continue
        figures = (run.share, run.tokens, run.steps, run.point.domain, run.point.general)
        if (twin := known.setdefault(figures, run.name)) != run.name:
            raise RecipeError(
                f"{twin} and {run.name} have the same share, tokens and losses to the last digit: they are one run, or "
                "its repeat with the same seed, and say no more than one",
                where="RUNS",
                remedy="name one of them, or train the other with another seed",
            )


def _equal(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-4) for x, y in zip(a, b, strict=True))


def _apart(a: Observed, b: Observed, what: str) -> RecipeError:
    return RecipeError(f"{a.name} and {b.name} have other {what}", where="RUNS", remedy=REMEDY)
