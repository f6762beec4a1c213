"""Where a new classifier's head starts: `python -m benchmarks.heads --data FOLDER [--page]`.

From a linear probe on the base's features (`train.head: probe`, the default) and drawn at random, in turn on the same
rows and seeds, at the rates that `tunewright init` writes: accuracy on 300 rows that neither has seen. A probe fits few
rows nearly by itself, and an adapter's rate then moves what it reads away under it; this says what is left of either at
the end. Runs are kept in benchmarks/heads.json and not made again; `--page` prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import machine
from benchmarks.defaults_data import TABLE, DataSet, file_of
from tunewright.measure.intervals import paired_difference

RESULTS = Path(__file__).with_suffix(".json")
SETS, SIZES, METHODS, SEEDS, THREADS = (
    ("clinc150", "banking77", "sentiment-domains"),
    (100, 900),
    ("lora", "full"),
    2,
    1,
)
EVALUATED = 300


def rows_of(name: str, source: Path) -> list[dict[str, Any]]:
    """Texts with classes; the topics of bank messages are asked for as text elsewhere."""
    data: DataSet = next(d for d in TABLE if d.name == name)
    rows = data.read(source)
    return [{"text": r["prompt"], "label": r["completion"]} if "prompt" in r else r for r in rows]


def run(name: str, size: int, method: str, head: str, seed: int, source: Path, folder: Path) -> list[float]:
    """Whether each evaluated row is right after one run."""
    from tunewright.planning.init import write_recipe
    from tunewright.recipe import Recipe, Source
    from tunewright.trials.trial import Store, run_trial
    from tunewright.trials.tuning import training_alone

    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(name, source)
    order = np.random.default_rng(seed).permutation(len(rows))
    evaluated = file_of(folder / "evaluated.jsonl", [rows[i] for i in order[:EVALUATED]])
    train = file_of(folder / "train.jsonl", [rows[i] for i in order[EVALUATED : EVALUATED + size]])
    first = folder / "recipe.yaml"
    first.unlink(missing_ok=True)
    write_recipe("minilm-l6", str(train), None, first)
    tree = yaml.safe_load(first.read_text(encoding="utf-8"))
    if method != "full":  # `init` writes full, and its rate
        tree["methods"] = [method]
        tree["train"].pop("learning_rate", None)
        first.write_text(yaml.safe_dump(tree), encoding="utf-8")
    sets = ["measurement.metric=accuracy", "train.precision=float32", f"train.head={head}", f"train.seed={seed}"]
    recipe = training_alone(Recipe.load(first, sets))
    recipe.data = recipe.data.model_copy(update={"eval": [Source(path=str(evaluated))]})
    recipe.measurement = recipe.measurement.model_copy(update={"split": "eval"})
    record = run_trial(recipe, Store(folder / "trials"), threads=THREADS)
    if not record.finished or record.rows is None:
        raise RuntimeError(f"{record.status}: {record.error}")
    return [float(x) for x in record.rows.values]


def known() -> dict[str, dict[str, list[float]]]:
    """Finished pairs: "data rows method seed" -> head -> right rows."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else {}


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """The pairs as Markdown: seeds together, rows paired."""
    lines = [
        "| data | rows | method | random head | from a probe | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in SETS:
        for size in SIZES:
            for method in METHODS:
                pairs = [found[k] for s in range(SEEDS) if len(found.get(k := f"{name} {size} {method} {s}", {})) == 2]
                if not pairs:
                    continue
                random, probe = (np.concatenate([p[head] for p in pairs]) for head in ("random", "probe"))
                d = paired_difference(random.tolist(), probe.tolist(), seed=0)
                figures = f"{random.mean():.1%} | {probe.mean():.1%} | {d.value:+.1%} [{d.low:+.1%}, {d.high:+.1%}]"
                lines.append(f"| {name} | {size} | `{method}` | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("heads-work"))
    parser.add_argument("--page", action="store_true", help="print the table of what is known")
    options = parser.parse_args()
    if options.page:
        print(table(known()))
        return
    if options.data is None:
        parser.error("--data names the folder of the original data sets")
    for size in SIZES:
        for seed in range(SEEDS):
            for name in SETS:
                for method in METHODS:
                    for head in ("random", "probe"):
                        found, key = known(), f"{name} {size} {method} {seed}"
                        if head in found.get(key, {}):
                            continue
                        right = run(
                            name, size, method, head, seed, options.data, options.work / key.replace(" ", "-") / head
                        )
                        found.setdefault(key, {})[head] = right
                        on = machine.describe("float32", THREADS)["processor"]
                        RESULTS.write_text(json.dumps({"processor": on, "runs": found}) + "\n", encoding="utf-8")
                        print(f"{key} {head}: {np.mean(right):.3f}", flush=True)


if __name__ == "__main__":
    main()
