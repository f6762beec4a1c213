"""How far the defaults get: `python -m benchmarks.defaults --data FOLDER [--minutes M] [--only NAME] [--size N]`.

For each data set of `defaults_data.TABLE` at 100, 500 and 5,000 rows: what `tunewright init` and `tunewright run` reach
with nothing edited, and what the recipe that `tunewright tune` writes reaches, on the same rows that neither has seen.
Only the target is measured. A cell is kept in benchmarks/defaults.json as soon as it is done and not run again; those
that are missing are listed as not run. `--page` writes docs/defaults.md from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.defaults_data import TABLE, DataSet, write
from tunewright.measure.intervals import of_draws
from tunewright.trials.row_scores import RowScores

RESULTS = Path(__file__).with_suffix(".json")
SIZES = (100, 500, 5000)
TRIALS = {100: 12, 500: 8, 5000: 6}
"""Runs of `tune` at most, by rows: 6 are the default's own and five rates at half its length; with 8 the best of them
run as long as the default, or longer. A run of 5,000 rows takes minutes.
"""
THREADS = 1
LIMIT = 0.9
"""Share of the tuned gain that a default is to reach."""
RESAMPLES = 2000


def cells() -> Iterable[tuple[DataSet, int]]:
    """Every cell of the table, small ones first, and of them those that judge."""
    for size in SIZES:
        for data in sorted(TABLE, key=lambda d: d.fits):
            yield data, size


def known() -> dict[str, dict[str, Any]]:
    """Finished cells by name and size."""
    if not RESULTS.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def name_of(data: DataSet, size: int) -> str:
    return f"{data.name} {size}"


def run_cell(data: DataSet, size: int, source: Path, folder: Path, trials: int, workers: int | None) -> dict[str, Any]:
    """The figures of a cell: base, default and tuned on rows that none was trained or tuned on."""
    from tunewright.planning.init import write_recipe
    from tunewright.recipe import Recipe
    from tunewright.trials.trial import Store
    from tunewright.trials.tune import tune

    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    train, evaluated, rows = write(data, source, folder, size)
    first = folder / "recipe.yaml"
    first.unlink(missing_ok=True)
    write_recipe(data.model, str(train), None, first)
    recipe = Recipe.load(first, [f"measurement.metric={data.metric}", "train.precision=float32"])
    store = Store(folder / "trials")
    default = _measured(recipe, evaluated, store)
    tuned = tune(recipe, trials=trials, out=folder / "tune", workers=workers, say=lambda text: print("   ", text))
    best = tuned.best
    chosen = default
    if tuned.changed and best is not None:
        sets = [f"train.learning_rate={best.learning_rate}", f"train.batch_tokens={best.batch_tokens}"]
        budget = json.dumps(best.budget)
        better = Recipe.load(first, [f"measurement.metric={data.metric}", "train.precision=float32", *sets])
        better.stages[0].budget = type(better.stages[0].budget)(**json.loads(budget))
        chosen = _measured(better, evaluated, store)
    return {
        "data": data.name,
        "kind": data.kind,
        "model": data.model,
        "fits": data.fits,
        "size": size,
        "rows": rows,
        "metric": data.metric,
        "unit": default["unit"],
        "direction": default["direction"],
        "evaluated": default["evaluated"],
        "base": default["base"],
        "default": default["tuned"],
        "tuned": chosen["tuned"],
        "default_settings": vars(tuned.own),
        "tuned_settings": None if best is None else vars(best),
        "trials": len(tuned.tried),
        "stopped": tuned.stopped,
        "share_interval": interval_of_share(default["rows"], chosen["rows"], default["direction"]),
        "seconds": round(time.monotonic() - began),
        "processor": machine.describe("float32", THREADS)["processor"],
    }


def _measured(recipe: Any, evaluated: Path, store: Any) -> dict[str, Any]:
    """A whole run of a recipe, measured on the target alone. RuntimeError where it did not finish."""
    from tunewright.recipe import Source
    from tunewright.trials.trial import run_trial
    from tunewright.trials.tuning import training_alone

    alone = training_alone(recipe)
    alone.data = alone.data.model_copy(update={"eval": [Source(path=str(evaluated))]})
    alone.measurement = alone.measurement.model_copy(update={"split": "eval"})
    record = run_trial(alone, store, threads=THREADS)
    if not record.finished or record.tuned is None:
        raise RuntimeError(f"{record.status}: {record.error}")
    return {
        "base": record.base.target,
        "tuned": record.tuned.target,
        "unit": record.target_unit,
        "direction": record.direction,
        "evaluated": record.evaluated,
        "rows": record.rows,
    }


def share(cell: dict[str, Any]) -> float | None:
    """The default's share of the gain that was found, by the default's own run where tuning found none better; none
    where nothing was gained.
    """
    sign = 1 if cell["direction"] == "higher" else -1
    gain, found = sign * (cell["default"] - cell["base"]), sign * (cell["tuned"] - cell["base"])
    return gain / found if found > 0 else None


def interval_of_share(default: RowScores | None, tuned: RowScores | None, direction: str) -> list[float] | None:
    """The 95 % interval of that share over the evaluated rows, drawn again in pairs; none where tuning gained nothing
    on them, or in more than one draw of twenty: a share of nothing is no number.
    """
    if default is None or tuned is None or not default.same_rows(tuned):
        return None
    sign = 1.0 if direction == "higher" else -1.0
    counts = np.ones(len(default.gains)) if default.counts is None else default.counts
    own, found = sign * counts * default.gains, sign * counts * tuned.gains

    def reached(rows: np.ndarray) -> float:
        most = float(found[rows].sum())
        return float(own[rows].sum()) / most if most > 0 else float("nan")

    draws = np.random.default_rng(0).integers(0, len(own), (RESAMPLES, len(own)))
    shares = np.array([reached(rows) for rows in draws])
    if np.isnan(shares).mean() > 0.05:
        return None
    interval = of_draws(reached(np.arange(len(own))), shares, len(own))
    return None if interval.low is None or interval.high is None else [interval.low, interval.high]


def below_base(cell: dict[str, Any]) -> bool:
    """Whether the default ended below the base."""
    sign = 1 if cell["direction"] == "higher" else -1
    return bool(sign * (cell["default"] - cell["base"]) < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data sets (default: TUNEWRIGHT_DATA)")
    parser.add_argument("--work", type=Path, default=Path("build/defaults"), help="where runs are kept")
    parser.add_argument("--minutes", type=float, help="begin no cell later than this")
    parser.add_argument("--only", help="one data set")
    parser.add_argument("--size", type=int, help="one size")
    parser.add_argument("--trials", type=int, help="runs of tune at most (default: by the rows)")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--page", action="store_true", help="write docs/defaults.md from the results alone")
    options = parser.parse_args()
    if not options.page:
        source = options.data or Path(os.environ["TUNEWRIGHT_DATA"])
        _run(options, source)
    from benchmarks.defaults_page import page

    (Path(__file__).parents[1] / "docs" / "defaults.md").write_text(page(known()), encoding="utf-8")


def _run(options: argparse.Namespace, source: Path) -> None:
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    for data, size in cells():
        name = name_of(data, size)
        wanted = options.only in (None, data.name) and options.size in (None, size)
        if not wanted or name in known():
            continue
        if until is not None and time.monotonic() >= until:
            return
        print(name, flush=True)
        folder = options.work / data.name / str(size)
        try:
            cell = run_cell(data, size, source, folder.resolve(), options.trials or TRIALS[size], options.workers)
        except RuntimeError as error:
            print(f"    not finished: {error}", flush=True)
            continue
        RESULTS.write_text(json.dumps({**known(), name: cell}, indent=1) + "\n", encoding="utf-8")
        reached = share(cell)
        told = "nothing gained" if reached is None else f"{reached:.0%}"
        print(
            f"    base {cell['base']:.4g} default {cell['default']:.4g} tuned {cell['tuned']:.4g}: {told}", flush=True
        )


if __name__ == "__main__":
    main()
