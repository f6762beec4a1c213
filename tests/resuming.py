"""Runs that are killed at chosen moments, and what has to be equal afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import Commands
from tests.small import write_inputs

PLAIN: dict[str, Any] = {
    "model": "./base",
    "task": "text-generation",
    "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 64},
    "keep": ["keep.txt"],
    "train": {
        "learning_rate": 1e-2,
        "batch_tokens": 192,
        "micro_tokens": 96,
        "save_steps": 3,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    },
    "measurement": {"drift_sequences": 2, "drift_tokens": 8, "max_new_tokens": 3, "few_shot": 0, "strengths": [1]},
}
LORA = {"lora": {"rank": 2, "dropout": 0.2}}


def recipe(
    methods: list[Any] | None = None, stages: list[dict[str, Any]] | None = None, **train: Any
) -> dict[str, Any]:
    body = {"stages": stages} if stages else {"methods": methods, "budget": {"steps": 10}}
    return {**PLAIN, "train": {**PLAIN["train"], **train}, **body}


def two(carry: str) -> list[dict[str, Any]]:
    return [
        {"name": "first", "methods": [LORA], "budget": {"steps": 4}},
        {"name": "second", "start": "stages.first", "carry": carry, "methods": [LORA], "budget": {"steps": 5}},
    ]


RECIPES = {
    "lora with dropout": recipe([LORA]),
    "redrawn halves": recipe([{"hft": {"round_steps": 2}}], eval_steps=3, keep_best="loss"),
    "sparse entries": recipe(
        [{"lift": {"refresh_steps": 3, "rank": 2, "filter_rank": 4}}], optimizer="sgd", momentum=0.9
    ),
    "half precision": recipe([{"hft": {"round_steps": 2}}], precision="bfloat16"),
    "early stopping": recipe(
        [{"hft": {"round_steps": 1}}],
        eval_steps=1,
        save_steps=1,
        early_stopping=4,
        keep_best="loss",
        learning_rate=0.3,
        lr_scheduler_type="constant",
        warmup_steps=0,
    ),
    "blocks on disk": recipe([LORA], offload_param="disk"),
    "fold": recipe(stages=two("fold"), save_steps=2),
    "frozen": recipe(stages=two("frozen"), save_steps=2),
    "training": recipe(stages=two("training"), save_steps=2),
    "tasks": {
        **recipe([LORA], save_steps=2),
        "data": {"max_length": 64},
        "tasks": [{"name": n, "train": "train.jsonl", "eval": "test.jsonl"} for n in ("one", "two")],
        "budget": {"steps": 3},
    },
    # the fold puts weights elsewhere in a process that is not stopped; in a resumed one they are where they were read
    "base after a fold": recipe(
        stages=[*two("fold"), {"name": "third", "start": "base", "methods": [LORA], "budget": {"steps": 4}}],
        save_steps=2,
    ),
}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


class Bench:
    """A folder with inputs, in which commands run, and the uninterrupted run of each recipe."""

    def __init__(self, folder: Path, commands: Commands):
        self.folder, self.commands, self.whole = folder, commands, dict[str, Path]()
        write_inputs(folder, train=60, test=4)

    def write(self, name: str, content: dict[str, Any]) -> str:
        file = name.replace(" ", "-") + ".yaml"
        (self.folder / file).write_text(yaml.safe_dump(content))
        return file

    def run(self, name: str, out: str, *faults: dict[str, Any], **more: Any) -> Any:
        return self.commands(self.folder, ["run", self.write(name, RECIPES[name]), "--out", out], *faults, **more)

    def resume(self, out: str, *faults: dict[str, Any], verify: bool = False) -> Any:
        return self.commands(self.folder, ["resume", out, *(["--verify"] if verify else [])], *faults)

    def uninterrupted(self, name: str, *faults: dict[str, Any]) -> Path:
        key = name + json.dumps(faults)
        if key not in self.whole:
            out = f"whole-{len(self.whole)}"
            done = self.run(name, out, *faults)
            assert done.code == 0, done.stderr
            self.whole[key] = self.folder / out
        return self.whole[key]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Bench:
    return Bench(tmp_path_factory.mktemp("resume"), commands)


def bits(run: Path) -> dict[str, str]:
    """Hashes of everything that a run's result is made of."""
    files = [
        *run.glob("stages/*/trained.safetensors"),
        *run.glob("adapter/*"),
        *run.glob("delta.*"),
        run / "rows.jsonl",
    ]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def metrics(run: Path) -> list[dict[str, Any]]:
    """The logged records, stage by stage, without the one value that a clock decides."""
    found = [
        {k: v for k, v in json.loads(line).items() if k != "tokens_per_second"}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return sorted(found, key=lambda m: m["stage"])


def same(a: Path, b: Path) -> None:
    """Both ended in the same bits, logged the same steps once each, and left nothing half-written."""
    assert bits(a) == bits(b) and len(bits(a)) >= 3
    assert metrics(a) == metrics(b)
    steps = [(m["stage"], m["step"]) for m in metrics(b) if "learning_rate" in m]
    assert len(steps) == len(set(steps))
    ours, theirs = (json.loads((p / "report.json").read_text()) for p in (a, b))
    for sequence in (ours["sequence"], theirs["sequence"]):
        for after in sequence["after"] if sequence else ():
            del after["seconds"]
    for key in ("target", "kept", "drift", "trade", "trained", "sequence"):
        assert ours[key] == theirs[key], key
    assert not [p for p in b.rglob(".*") if p.name != ".lock"]


def at(where: str, call: int, do: str = "kill") -> dict[str, Any]:
    return {"at": where, "call": call, "do": do}


STEP, FLUSH = "tunewright.training.train:Loop.one_step", "tunewright.files.checkpoint:flush"
READ = "tunewright.runs.meter:Meter.read"


def moved(bench: Bench, folder: Path, *runs: str) -> Path:
    """A copy of a bench in `folder`, the recipes of its runs led there: another place, equal content."""
    shutil.copytree(bench.folder, folder)
    for run in runs:
        file = folder / run / "recipe.yaml"
        file.write_text(file.read_text().replace(str(bench.folder), str(folder)))
    return folder
