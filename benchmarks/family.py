"""What may change, compared: `python -m benchmarks.family --data FOLDER [--only TASK] [--method NAME] [--page]`.

Every method of the rooms `adapters` and `parameter_selection`, alone and beside `lora`, on three tasks: the same rows
and passes, each method's learning rate chosen by one rule on held-out rows (`tunewright compare --tune`), three
seeds, measured on 600 rows that none has seen. A cell is one method on one task: `tunewright compare` of it and `lora`,
whose runs are made once. It is kept in benchmarks/family.json as soon as it is done and not run again; what a method
refuses is kept too. `--page` writes docs/family.md from that file.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import cells as kept
from benchmarks import machine
from benchmarks.defaults_data import TABLE, file_of

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "family.md"
ROOMS = ("methods/adapters", "methods/parameter_selection")
BESIDE = "lora"
SEEDS, THREADS, ROWS, EVALUATED, DOCUMENTS = 3, 1, 200, 600, 40


@dataclass(frozen=True)
class Task:
    """One of the tasks: its name on the page, its data set, base, passes over the rows, and the target's metric.

    `side`: pixels to which pictures are resized, 0: as the base has it. `layers`: the `target_modules` of the methods
    that change convolutions where they are asked to, "": as each of them has it.
    """

    name: str
    data: str
    model: str
    epochs: int
    metric: str
    task: str
    side: int = 0
    layers: str = ""


TASKS = (
    Task("domains", "clinc150", "minilm-l6", 5, "accuracy", "text-classification"),
    Task("pictures", "cifar10", "efficientnet-lite0", 5, "accuracy", "image-classification", side=128, layers="all"),
    Task("answers", "banking77", "nano", 5, "exact_match", "text-generation"),
)


def methods() -> list[str]:
    """What is compared, `lora` and `full` first."""
    from tunewright import catalogue

    names = [e.name for e in catalogue.entries().values() if e.room in ROOMS]
    return sorted(names, key=lambda n: (n not in (BESIDE, "full"), n))


def cells() -> Iterable[tuple[Task, str]]:
    return ((task, name) for task in TASKS for name in methods() if name != BESIDE)


def asked(task: Task, name: str) -> str:
    """How the comparison is asked for a method on a task."""
    from tunewright import catalogue
    from tunewright.pieces.convolving import ConvolvingLowRank

    has = task.layers and issubclass(catalogue.load_method(name), ConvolvingLowRank)
    return f"{name}:target_modules={task.layers}" if has else name


def _base(task: Task, folder: Path) -> str:
    """The base of a task; one that reads smaller pictures is a copy whose processor says so."""
    from tunewright.loading.locate import locate

    if not task.side:
        return task.model
    own = folder / "base"
    if not own.exists():
        shutil.copytree(locate(task.model).folder, own)
        file = own / "preprocessor_config.json"
        size = {"size": {"shortest_edge": task.side}, "crop_size": {"height": task.side, "width": task.side}}
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | size), encoding="utf-8")
    return str(own)


def recipe_file(task: Task, source: Path, folder: Path) -> Path:
    """The recipe of a task, with its rows beside it, as a user would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = next(d for d in TABLE if d.name == task.data).read(source)
    random.Random(0).shuffle(rows)
    evaluated = file_of(folder / "evaluated", rows[:EVALUATED])
    train = file_of(folder / "train", rows[EVALUATED : EVALUATED + ROWS])
    tree: dict[str, Any] = {
        "model": _base(task, folder),
        "task": task.task,
        "data": {"train": train.name, "eval": evaluated.name, "validation": "25%"},
        "methods": [BESIDE],
        "budget": {"epochs": task.epochs},
        "train": {"precision": "float32", "threads": THREADS},
        "measurement": {"metric": task.metric, "strengths": [1.0], "few_shot": 0, "drift_sequences": 8},
    }
    if task.task == "text-generation":
        with gzip.open(source / "wikitext2" / "test.txt.gz", "rt", encoding="utf-8") as text:
            told = [line.strip() for line in text if len(line) > 200]
        (folder / "general.txt").write_text("\n\n".join(told[:DOCUMENTS]), encoding="utf-8")
        tree["keep"] = ["general.txt"]
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


def run_cell(task: Task, name: str, source: Path, folder: Path) -> dict[str, Any]:
    """The figures of a method and of `lora`; `refused` where the method says that it does not serve here."""
    from tunewright.compare.arms import parse_arms
    from tunewright.compare.comparison import compare
    from tunewright.errors import TunewrightError
    from tunewright.recipe import Recipe

    recipe, began = Recipe.load(recipe_file(task, source, folder)), time.monotonic()
    cell: dict[str, Any] = {"task": task.name, "method": name}
    try:
        arms = parse_arms(",".join(asked(task, n) for n in (BESIDE, name)))
        made = compare(
            recipe,
            arms,
            seeds=SEEDS,
            tune=True,
            out=folder / "compare",
            workers=1,
            quiet=True,
        )
    except TunewrightError as error:
        return cell | {"refused": error.what.partition(f" refused: {asked(task, name)}: ")[2] or error.what}
    lora, own = (made.arm(arm.name) for arm in arms)
    if (bad := next((r.error for r in own.runs if r.status != "finished"), None)) is not None:
        return cell | {"refused": bad}
    return cell | {
        "base": made.base_target,
        "figures": _figures(own),
        "beside": _figures(lora),
        "drift_measure": made.drift_measure,
        "seconds": round(time.monotonic() - began),
        "processor": machine.describe("float32", THREADS)["processor"],
    }


def _figures(arm: Any) -> dict[str, Any]:
    """What is kept of an arm."""
    runs = sorted(arm.finished, key=lambda r: r.seed)
    return kept.targets_of(arm) | {
        "lost": [sum(r.kept.values()) / len(r.kept) if r.kept else None for r in runs],
        "drift": [r.drift for r in runs],
        "trained": arm.trainable_parameters,
        "stored_bytes": arm.stored_bytes,
        "peak_memory_bytes": arm.peak_memory_bytes,
    }


def main() -> None:
    from benchmarks.family_page import compared, page
    from tunewright.compare.compared import FILE

    kept.main(__doc__, ("task", "method"), RESULTS, (PAGE, page), cells(), run_cell)
    if "--page" in sys.argv:  # what `tunewright suggest` says of a method
        rows = compared(json.loads(RESULTS.read_text(encoding="utf-8")))
        FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
