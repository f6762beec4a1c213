"""What stands beside a verdict: how much was trained, from where to where, and in what that is unlike the paper.

Read from a stored claim's result as plain JSON (`claims/results/NAME.json`): nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def words(result: Mapping[str, Any]) -> list[str]:
    """Lines that say what one result at one scale rests on; those of which nothing is stored are left out."""
    lines = []
    if result.get("untested"):
        lines.append(f"not tested: {result['untested']}")
    lines.append(f"trained: {amount(result.get('amount') or {})}")
    lines += [arm_words(arm, result) for arm in result.get("arms", ())]
    differs = (result.get("claim") or {}).get("differs")
    if differs:
        lines.append(f"unlike the paper: {differs}")
    return lines


def amount(stored: Mapping[str, Any]) -> str:
    """Steps and passes of each run in words."""
    if stored.get("steps") is None:
        return "how many steps was not noted"
    passes = stored.get("passes")
    over = "" if passes is None else f", {passes:.2g} pass{'' if passes == 1 else 'es'} over the rows"
    return f"{stored['steps']:,} steps{over}"


def arm_words(arm: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """An arm's figures: of the task from the untouched base to the tuned model, and what was compared."""
    runs = [r for r in arm.get("runs", ()) if r.get("status") == "finished"]
    failed = len(arm.get("runs", ())) - len(runs)
    said = []
    before = _mean([(r.get("base") or {}).get("target") for r in runs])
    after = _mean([_full(r) for r in runs])
    if before is not None and after is not None:
        said.append(f"the task's figure from {before:.3g} (base) to {after:.3g} (tuned)")
    figure = _mean([r.get("figure") for r in runs])
    if figure is not None and not (result.get("metric") == "target" and said):
        said.append(f"{result.get('metric')}: {figure:.3g}")
    untouched = _mean([(r.get("other") or {}).get("base") for r in runs])
    if untouched is not None:
        said.append(f"the untouched base: {untouched:.3g}")
    if failed:
        said.append(f"{failed} of {failed + len(runs)} runs failed")
    return f"{arm['name']}: {'; '.join(said) or 'no figures'}"


def _full(run: Mapping[str, Any]) -> float | None:
    return next((s.get("target") for s in run.get("strengths", ()) if s.get("strength") == 1.0), None)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None
