"""What is compared: computed afresh by each function here, as plain numbers that go into a JSON file.

`python -m tests.golden.digests` writes the files anew, which a change that means to move a number does, and says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tunewright.catalogue import entries
from tunewright.conformance import adapting, learned, weights
from tunewright.conformance.bench import Tiny, rows_of
from tunewright.conformance.case import Case
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.making import Makes
from tunewright.machine import host
from tunewright.recipe import Recipe
from tunewright.runs import run as run_module
from tunewright.tasks import get_task

FOLDER = Path(__file__).parent
STEPS = 20
METHODS, REPORTS = FOLDER / "methods.json", FOLDER / "reports.json"

_ROWS = {
    "train": "quickstart:train",
    "eval": "quickstart:test",
    "validation": [{"path": "quickstart:validation", "limit": 20}],
    "max_length": 128,
}
_PLAIN: dict[str, Any] = {
    "model": "nano",
    "task": "text-generation",
    "data": _ROWS,
    "keep": [{"data": "quickstart:keep", "name": "general", "limit": 4}],
    "train": {
        "learning_rate": 2e-3,
        "batch_tokens": 1024,
        "warmup_steps": 0.03,
        "precision": "float32",
        "threads": 1,
        "device": "cpu",
    },
    "measurement": {"rows": 24, "drift_sequences": 4, "drift_tokens": 16, "max_new_tokens": 8, "strengths": [0.5, 1.0]},
}
RUNS: dict[str, dict[str, Any]] = {
    "lora-asft": {"methods": [{"lora": {"rank": 8}}, "asft"], "budget": {"steps": 12}},
    "hft-then-corda-then-lines": {
        "stages": [
            {"name": "first", "methods": [{"hft": {"round_steps": 3}}], "budget": {"steps": 8}},
            {"name": "second", "start": "stages.first", "methods": [{"corda": {"rank": 8}}], "budget": {"steps": 6}},
        ],
        "after": ["lines"],
    },
    "full-e2wm-probe": {
        "methods": ["full", "e2wm"],
        "budget": {"steps": 8},
        "probes": ["intruder-dimensions"],
        "train": {**_PLAIN["train"], "eval_steps": 4, "keep_best": "loss"},
    },
}
"""Three runs on the shipped base `nano`, by name."""

REAL: dict[str, dict[str, Any]] = {
    "smollm2-lora": {
        "model": "smollm2-135m-instruct",
        "data": {**_ROWS, "system": ""},
        "train": {**_PLAIN["train"], "learning_rate": 5e-4, "batch_tokens": 256},
        "methods": [{"lora": {"rank": 16}}],
        "budget": {"steps": 3},
        "measurement": {"rows": 6, "drift_sequences": 2, "drift_tokens": 8, "max_new_tokens": 4, "strengths": [1.0]},
    }
}
"""One on a real model, which has to be fetched."""


def trained_methods() -> list[str]:
    """Names of the methods that train on the tiny set-up."""
    return [n for n in entries() if fills_training_slots(Case.of(n))]


def tensor_methods() -> list[str]:
    """Names of the merges and edits."""
    return [n for n in entries() if {"merge", "edit"} & set(Case.of(n).slots)]


def making_methods() -> list[str]:
    """Names of the methods that make rows."""
    return [n for n in entries() if "synthesize" in Case.of(n).slots]


def made(name: str) -> list[float]:
    """Of what a method makes on its conformance case: how much is kept and thrown away, letters, and each score."""
    found = Makes(Case.of(name).method).made()
    kept = [m for m in found if not m.thrown]
    letters = [float(sum(len(str(v)) for v in m.values.values() if not isinstance(v, float))) for m in found]
    return [float(len(kept)), float(len(found)), *letters, *(v for m in found for v in m.scores.values())]


def losses(name: str) -> list[float]:
    """The loss of each of 20 steps of a method's conformance case."""
    return [r["loss"] for r in Tiny(Case.of(name).named, steps=STEPS).run().records]


def stream_methods() -> list[str]:
    """Names of the methods that adapt at test time."""
    return [n for n in entries() if "adapt" in Case.of(n).slots]


def streamed(name: str) -> list[float]:
    """The norm of the logits of each batch of a stream of twelve rows, on every bench that the method works on."""
    method = Case.of(name).method
    tried = [
        adapting.Tried(method, t, make, rows_of(get_task(t), "g", 12)).run() for t, make in adapting.benches(method)
    ]
    return [float(answer.double().norm()) for t in tried for answer in t.answers]


def norms(name: str) -> list[float]:
    """The norm of each tensor that a merge or an edit gives, and of its first entry's sign pattern, in order."""
    case = Case.of(name)
    given = learned.apply(case.method)[0] if learned.learns(case) else weights.apply(case.method)
    return [x for _, t in sorted(given.items()) for x in (float(t.double().norm()), float(t.double().sum()))]


def report(recipe: dict[str, Any], out: Path) -> dict[str, float]:
    """Every figure of a run's report: target, kept, drift, the trade, probes and what was trained, by path."""
    tree = {**_PLAIN, **recipe, "name": "golden"}
    done = run_module.run(Recipe.model_validate(tree), out, quiet=True)
    whole = json.loads((done.folder / "report.json").read_text())
    return dict(_numbers({k: whole[k] for k in ("target", "kept", "drift", "trade", "trained", "probes", "training")}))


def _numbers(tree: Any, path: str = "") -> Iterable[tuple[str, float]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if "second" not in key and "time" not in key:
                yield from _numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _numbers(value, f"{path}.{i}")
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path, float(tree)


def machine() -> dict[str, str]:
    """What bit equality is promised of: the processor and the libraries' versions."""
    import transformers

    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": host.processor(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def write(folder: Path) -> None:
    """Write both files from today's code."""
    torch.set_num_threads(1)
    here = machine()
    _dump(
        METHODS,
        {
            "machine": here,
            "losses": {n: losses(n) for n in trained_methods()},
            "norms": {n: norms(n) for n in tensor_methods()},
            "streams": {n: streamed(n) for n in stream_methods()},
            "made": {n: made(n) for n in making_methods()},
        },
    )
    _dump(REPORTS, {"machine": here, **{n: report(r, folder / n) for n, r in {**RUNS, **REAL}.items()}})


def _dump(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
