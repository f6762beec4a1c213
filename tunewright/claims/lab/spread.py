"""How much a task's figure varies by the seed alone: what claims take their number of seeds from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tunewright.claims.lab import ship
from tunewright.claims.lab.overlay import merged, with_methods
from tunewright.claims.lab.tasks import TASKS
from tunewright.errors import ClaimError


def runs_on(base: str) -> list[str]:
    """The lab tasks whose recipe at scale nano names this base."""
    return [name for name, task in TASKS.items() if task.scales.get("nano", {}).get("model") == base]


def spread(name: str, seeds: int) -> dict[str, Any]:
    """Full fine-tuning at the task's own rate, once per seed: the row of the card.

    ClaimError where a run failed, or for one seed alone.
    """
    from tunewright.files.cache import cache_folder
    from tunewright.recipe import Recipe
    from tunewright.trials.trial import Store, run_trial

    if seeds < 2:
        raise ClaimError("a standard deviation takes two seeds or more", where="--seeds", remedy="write --seeds 4")
    recipe, store = with_methods(TASKS[name].recipe("nano"), ["full"]), Store(cache_folder() / "trials")
    records = [run_trial(Recipe(**merged(recipe, {"train": {"seed": seed}})), store) for seed in range(seeds)]
    for record in records:
        if record.error is not None or record.base is None:
            raise ClaimError(f"the task '{name}' did not run: {record.error}", remedy="run it by hand to see why")
    tuned = [float(r.tuned.target) for r in records if r.tuned is not None and r.tuned.target is not None]
    before = records[0].base.target if records[0].base else None
    return {
        "task": name,
        "metric": records[0].target_metric,
        "base": "-" if before is None else f"{before:.3f}",
        "tuned": f"{statistics.mean(tuned):.3f}",
        "sd": f"{statistics.stdev(tuned):.4f}",
        "seeds": len(tuned),
        "arm": f"full, rate {recipe['train'].get('learning_rate')}",
        "seconds": f"{statistics.mean(r.seconds for r in records):.0f}",
    }


def measure(base: str, seeds: int = 4, tasks: Sequence[str] = ()) -> str:
    """Measure `tasks` of a base, or all of them, and write them into its card, where the rows of others stay;
    returns the card.
    """
    folder = ship.BASES / base
    measured = ship.read(folder)
    known = {row["task"]: row for row in measured.get("tasks", ())}
    known |= {name: spread(name, seeds) for name in tasks or runs_on(base)}
    measured["tasks"] = [known[name] for name in runs_on(base) if name in known]
    ship.write(folder, measured)
    return ship.card(measured)
