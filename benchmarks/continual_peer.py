"""Rehearsal beside Avalanche on digits: `python -m benchmarks.continual_peer --side ours|avalanche --data FOLDER`.

What draws its own rows cannot be compared step by step, as tests/parity/test_avalanche.py does the rest: here the same
base learns the same rows under the same orders of the tasks, once each, ten rows a step and ten kept
ones beside them, by plain descent at one rate. A cell is kept in benchmarks/continual_peer.json and not run again;
`python -m benchmarks.continual --page` shows them. Avalanche's cells want avalanche-lib and a torchvision that fits the
torch, which no extra brings: `--side avalanche` in an environment that has them, `--side ours` anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.continual import BUFFER, ORDERS, recipe_of
from benchmarks.continual_data import STREAMS, write

RESULTS = Path(__file__).with_suffix(".json")
STREAM = next(s for s in STREAMS if s.name == "digits")
ROWS, RATE = 10, 0.02
KEPT: dict[str, Any] = {"buffer_size": BUFFER, "minibatch_size": ROWS}
ARMS: dict[str, dict[str, Any]] = {
    "er": {"methods": [{"er": KEPT}, "full"]},
    "der": {"methods": [{"der": {**KEPT, "alpha": 0.3}}, "full"]},
    "der++": {"methods": [{"der": {**KEPT, "alpha": 0.3, "beta": 0.5}}, "full"]},
    "icarl": {"methods": [{"icarl": KEPT}, "full"]},
}
TRAIN: dict[str, Any] = {
    **{"optimizer": "sgd", "momentum": 0.0, "learning_rate": RATE, "lr_scheduler_type": "constant"},
    **{
        "warmup_steps": 0,
        "max_grad_norm": None,
        "batch_tokens": ROWS,
        "precision": "float32",
        "threads": 1,
    },
}


def known() -> dict[str, dict[str, Any]]:
    """Finished cells by name."""
    if not RESULTS.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def recipe_file(arm: str, order: int, source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The recipe of a cell, as a file, and those of its rows."""
    train, test = write(STREAM, source, folder)
    tree = recipe_of(STREAM, "icarl" if arm == "icarl" else "full", order, train, test)
    tree |= {**ARMS[arm], "budget": {"epochs": 1}, "train": {**TRAIN, "seed": order}}
    file = folder / f"peer-{arm.replace('+', 'p')}-{order}.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file, train, test


def ours(arm: str, order: int, source: Path, folder: Path) -> dict[str, float]:
    """Accuracy after all tasks and forgetting of a run of the recipe."""
    from tunewright.recipe import Recipe
    from tunewright.trials.trial import Store, run_trial

    file, *_ = recipe_file(arm, order, source, folder)
    record = run_trial(Recipe.load(file), Store(folder / "trials"), arm=arm)
    if not record.finished or record.tuned is None:
        raise RuntimeError(f"{record.status}: {record.error}")
    return {"accuracy": float(record.tuned.target), "forgetting": record.sequence["forgetting"]}


def theirs(arm: str, order: int, source: Path, folder: Path) -> dict[str, float]:
    """The same of Avalanche's strategy on the same tasks."""
    import torch
    from avalanche.benchmarks import tensors_benchmark
    from torch import nn
    from transformers import AutoModelForImageClassification

    from tunewright.loading.builtin import SHIPPED
    from tunewright.recipe import Recipe

    file, train, test = recipe_file(arm, order, source, folder)
    sequence = Recipe.load(file).sequence
    assert sequence is not None
    groups = [list(t.classes or ()) for t in sequence.tasks]
    random.seed(order)
    np.random.seed(order)
    torch.manual_seed(order)
    torch.set_num_threads(1)
    model = AutoModelForImageClassification.from_pretrained(SHIPPED / STREAM.model, dtype=torch.float32)

    class Features(nn.Module):
        def forward(self, x: Any) -> Any:
            return model.vit(pixel_values=x).last_hidden_state[:, 0]

    extractor = Features()
    extractor.vit = model.vit
    learnt = [_tensors(train, classes) for classes in groups]
    measured = [_tensors(test, classes) for classes in groups]
    benchmark = tensors_benchmark(train_tensors=learnt, test_tensors=measured, task_labels=[0] * len(groups))
    order_of_classes = [int(c) for classes in groups for c in classes]
    benchmark.n_classes_per_exp, benchmark.classes_order = [len(g) for g in groups], order_of_classes
    strategy = _strategy(arm, extractor, model.classifier)
    scores: list[list[float]] = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.model.eval()
        with torch.no_grad():
            scores.append([float((strategy.model(x).argmax(1) == y).float().mean()) for x, y in measured])
    last = scores[-1]
    best = [max(row[j] for row in scores[:-1]) for j in range(len(last) - 1)]
    return {
        "accuracy": sum(last) / len(last),
        "forgetting": sum(b - end for b, end in zip(best, last, strict=False)) / len(best),
    }


def _tensors(file: Path, classes: Sequence[str]) -> tuple[Any, Any]:
    """Pictures [n, 1, 28, 28] from -1 to 1 and labels [n] of some classes."""
    import torch

    z = np.load(file)
    chosen = np.isin(z["names"][z["y"]], list(classes))
    x = torch.from_numpy(z["x"][chosen]).float()[:, None] / 255
    return (x - 0.5) / 0.5, torch.from_numpy(z["y"][chosen]).long()


def _strategy(arm: str, extractor: Any, classifier: Any) -> Any:
    import torch
    from avalanche.training import DER, ICaRL, Naive
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from torch import nn

    shared: dict[str, Any] = {"train_mb_size": ROWS, "train_epochs": 1, "eval_mb_size": 100, "evaluator": None}
    if arm == "icarl":  # its loss is a mean over the ten classes, and not a sum
        rate = RATE * classifier.out_features
        optimizer = torch.optim.SGD([*extractor.parameters(), *classifier.parameters()], lr=rate)
        return ICaRL(
            feature_extractor=extractor,
            classifier=classifier,
            optimizer=optimizer,
            memory_size=BUFFER,
            buffer_transform=None,
            fixed_memory=True,
            **shared,
        )
    network = nn.Sequential(extractor, classifier)
    shared |= {"model": network, "optimizer": torch.optim.SGD(network.parameters(), lr=RATE)}
    if arm.startswith("der"):
        return DER(**shared, mem_size=BUFFER, batch_size_mem=ROWS, alpha=0.3, beta=0.5 if arm == "der++" else 0.0)
    kept = ReservoirSamplingBuffer(BUFFER)
    plugin = ReplayPlugin(BUFFER, batch_size=ROWS, batch_size_mem=ROWS, storage_policy=kept)
    return Naive(**shared, criterion=nn.CrossEntropyLoss(), plugins=[plugin])


def section(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's part: both sides' figures over orders, and the difference paired by them."""
    from benchmarks.continual_page import figure

    if not cells:
        return ""
    said = f"""
## Beside Avalanche

`ewc`, `mas`, `si`, `lwf`, `a-gem` and `gem` take Avalanche's steps, and `icarl` keeps its rows
(tests/parity/test_avalanche.py says under which conditions). What draws its own rows is held against it here, on the
stream of digits: the same base, rows, orders and tasks; every row once, {ROWS} and as many kept ones a step, {BUFFER}
kept in all, plain descent at {RATE}. What differs by design: Avalanche fills its buffers when a task has ended, and
`der`'s evenly by class with the logits of that moment, which know the row; here rows come by a reservoir at every step
with the logits from before it, as the paper says, which after a single pass know little. Its `icarl` reads kept rows
once, among a task's own, and its means are of mirrored pictures too, which digits are not.

| method | here | Avalanche 0.6 | difference | forgetting here | there | orders |
| --- | --- | --- | --- | --- | --- | --- |
"""
    for arm in ARMS:
        both = [
            (cells[f"ours {arm} {o}"], cells[f"avalanche {arm} {o}"])
            for o in range(100)
            if f"ours {arm} {o}" in cells and f"avalanche {arm} {o}" in cells
        ]
        if both:
            columns = [f"`{arm}`"]
            columns += [figure([pair[i]["accuracy"] for pair in both], False) for i in (0, 1)]
            columns += [figure([a["accuracy"] - b["accuracy"] for a, b in both], False, change=True)]
            columns += [
                figure([pair[i]["forgetting"] for pair in both], False, change=True, star=False) for i in (0, 1)
            ]
            said += "| " + " | ".join([*columns, str(len(both))]) + " |\n"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data sets (default: TUNEWRIGHT_DATA)")
    parser.add_argument("--work", type=Path, default=Path("build/continual"), help="where runs are kept")
    parser.add_argument("--side", choices=("ours", "avalanche"), required=True)
    parser.add_argument("--orders", type=int, default=ORDERS)
    options = parser.parse_args()
    source = options.data or Path(os.environ["TUNEWRIGHT_DATA"])
    for order in range(options.orders):
        for arm in ARMS:
            name = f"{options.side} {arm} {order}"
            if name in known():
                continue
            began = time.monotonic()
            run = ours if options.side == "ours" else theirs
            cell = run(arm, order, source, (options.work / f"peer-{options.side}").resolve())
            RESULTS.write_text(json.dumps({**known(), name: cell}, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {cell} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
