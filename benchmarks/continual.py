"""Continual methods on four streams: `python -m benchmarks.continual --data FOLDER [--only STREAM] [--orders N]`.

Every arm learns the same rows under the same passes, at its methods' own rates, on several orders of the tasks; the
order's number is the seed too, so that arms are paired by it. A cell is kept in benchmarks/continual.json as soon as it
is done and not run again. `--page` writes docs/continual-compared.md from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine
from benchmarks.continual_data import STREAMS, Stream, write

RESULTS = Path(__file__).with_suffix(".json")
ORDERS = 3
BUFFER = 100
"""Rows that a method which rehearses may keep: the same for all."""
JOINT = "joint"

REHEARSAL, PENALTIES = ("er", "der", "a-gem", "gem"), ("lwf", "ewc", "online-ewc", "si", "mas")
PROMPTS = ("l2p", "dualprompt", "coda-prompt", "progressive-prompts")
ARMS: dict[str, dict[str, Any]] = {
    "full": {"methods": ["full"]},
    "lora": {"methods": ["lora"]},
    JOINT: {"methods": ["full"]},
    **{name: {"methods": [{name: {"buffer_size": BUFFER}}, "full"]} for name in REHEARSAL},
    **{name: {"methods": [name, "full"]} for name in PENALTIES},
    "gpm": {"methods": ["gpm", "full"]},
    "hft": {"methods": ["hft"]},
    "icarl": {"methods": [{"icarl": {"buffer_size": BUFFER}}, "full"], "carry": "frozen"},
    "simplecil-adam": {"methods": ["simplecil-adam"], "carry": "frozen"},
    "ranpac": {"methods": ["ranpac"], "carry": "frozen"},
    "lae": {"methods": ["lae", "lora"], "carry": "training"},
    "mos": {"methods": ["mos"], "carry": "frozen"},
    "ease": {"methods": ["ease"], "carry": "frozen"},
    **{name: {"methods": [name], "carry": "frozen"} for name in PROMPTS},
    "o-lora": {"methods": ["o-lora"]},
    "inflora": {"methods": ["inflora"]},
    "full+wise-ft": {"methods": ["full"], "after": [{"wise-ft": {"amount": 0.5}}]},
    "lora+wise-ft": {"methods": ["lora"], "after": [{"wise-ft": {"amount": 0.5}}]},
}
"""Arm -> what of the recipe is its own; `wise-ft` is the whole change at half strength."""


def cells(orders: int) -> Iterable[tuple[Stream, str, int]]:
    """Every cell: one order of all streams and arms before the next."""
    return ((s, arm, order) for order in range(orders) for s in STREAMS for arm in ARMS)


def name_of(stream: Stream, arm: str, order: int) -> str:
    return f"{stream.name} {arm} {order}"


def known() -> dict[str, dict[str, Any]]:
    """Finished cells by name."""
    if not RESULTS.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def recipe_of(stream: Stream, arm: str, order: int, train: Path, test: Path) -> dict[str, Any]:
    """The recipe of a cell, as a user would write it."""
    own = dict(ARMS[arm])
    carry = own.pop("carry", "fold")
    tree: dict[str, Any] = {
        "model": stream.model,
        "task": stream.task,
        "data": {"train": str(train), "eval": str(test)},
        "tasks": {**stream.tasks, "order_seed": order, "carry": carry},
        **own,
        "budget": {"epochs": stream.epochs},
        "train": {"seed": order, "precision": "float32", "threads": 1},
        "measurement": {"strengths": [1.0], "few_shot": 0, "drift_sequences": 8, "drift_tokens": 64},
    }
    return tree | stream.more


def run_cell(stream: Stream, arm: str, order: int, source: Path, folder: Path) -> dict[str, Any]:
    """The figures of a cell; `refused` where the method says that it does not serve here."""
    from tunewright.compare.arms import ComparedArm, arm_recipe
    from tunewright.errors import MethodError
    from tunewright.recipe import Recipe
    from tunewright.trials.trial import Store, run_trial

    train, test = write(stream, source, folder)
    file = folder / f"{arm.replace(' ', '-').replace(',', '')}-{order}.yaml"
    file.write_text(yaml.safe_dump(recipe_of(stream, arm, order, train, test)), encoding="utf-8")
    began = time.monotonic()
    cell: dict[str, Any] = {"stream": stream.name, "arm": arm, "order": order}
    try:
        recipe = Recipe.load(file)
        if arm == JOINT:
            uses = tuple(recipe.stages[0].methods)
            recipe = arm_recipe(recipe, ComparedArm(JOINT, uses, joint=True), recipe.stages[0].budget, order)
        record = run_trial(recipe, Store(folder / "trials"), arm=arm)
    except MethodError as error:
        return cell | {"refused": error.what}
    if not record.finished or record.tuned is None:
        raise RuntimeError(f"{record.status}: {record.error}")
    return cell | {
        "direction": record.direction,
        "unit": record.target_unit,
        "base": record.base.target,
        "accuracy": record.tuned.target,
        **record.sequence,
        "drift": record.tuned.drift,
        "train_seconds": round(float(record.cost.get("seconds", {}).get("train", 0.0)), 1),
        "trained_parameters": record.cost.get("trained_parameters"),
        "seconds": round(time.monotonic() - began),
        "processor": machine.describe("float32", 1)["processor"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data sets (default: TUNEWRIGHT_DATA)")
    parser.add_argument("--work", type=Path, default=Path("build/continual"), help="where runs are kept")
    parser.add_argument("--minutes", type=float, help="begin no cell later than this")
    parser.add_argument("--only", help="one stream")
    parser.add_argument("--arm", help="one arm")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--page", action="store_true", help="write docs/continual-compared.md from the results alone")
    options = parser.parse_args()
    if not options.page:
        _run(options, options.data or Path(os.environ["TUNEWRIGHT_DATA"]))
    from benchmarks import continual_peer
    from benchmarks.continual_page import page

    text = page(known(), continual_peer.known())
    (Path(__file__).parents[1] / "docs" / "continual-compared.md").write_text(text, encoding="utf-8")


def _run(options: argparse.Namespace, source: Path) -> None:
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    for stream, arm, order in cells(options.orders):
        name = name_of(stream, arm, order)
        wanted = options.only in (None, stream.name) and options.arm in (None, arm)
        if not wanted or name in known():
            continue
        if until is not None and time.monotonic() >= until:
            return
        try:
            cell = run_cell(stream, arm, order, source, (options.work / stream.name).resolve())
        except RuntimeError as error:
            print(f"{name}: not finished: {error}", flush=True)
            continue
        RESULTS.write_text(json.dumps({**known(), name: cell}, indent=1) + "\n", encoding="utf-8")
        told = cell.get("refused") or f"{cell['accuracy']:.4g}, forgetting {cell.get('forgetting', float('nan')):.3g}"
        print(f"{name}: {told} ({cell.get('seconds', 0)} s)", flush=True)


if __name__ == "__main__":
    main()
