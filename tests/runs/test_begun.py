"""A run that was stopped goes on with what it began with, or says what is another by now."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.resuming import PLAIN, RECIPES, STEP, Bench, at, commands, moved
from tests.running import Commands
from tunewright import errors
from tunewright.errors import CheckpointError
from tunewright.runs import begun
from tunewright.runs.folder import RunFolder

__all__ = ["commands"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Bench:
    """A run that was killed after its first checkpoint, in `out`, beside its inputs."""
    made = Bench(tmp_path_factory.mktemp("begun"), commands)
    made.write("r", {**RECIPES["lora with dropout"], "data": {**PLAIN["data"], "replay": {"old.txt": 0.1}}})
    (made.folder / "old.txt").write_text("lost card fee\n\ncash rate abroad")
    done = made.commands(made.folder, ["run", "r.yaml", "--out", "out"], at(STEP, 5))
    assert done.code == -signal.SIGKILL, done.stderr
    return made


@pytest.fixture
def killed(bench: Bench, tmp_path: Path) -> Path:
    """A copy of all, its recipe's paths led to the copy: another place, equal content."""
    return moved(bench, tmp_path / "elsewhere", "out")


def recipe(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "out" / "recipe.yaml"
        tree = yaml.safe_load(file.read_text())
        change(tree)
        file.write_text(yaml.safe_dump(tree, sort_keys=False))

    return apply


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))

    return apply


def lora(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["stages"][0]["methods"][0]["lora"]


CHANGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a parameter": (
        recipe(lambda t: lora(t).update(rank=8)),
        ("stages.0.methods.0.lora.rank: 8 (was 2)", "recipe.yaml"),
    ),
    "a rate": (recipe(lambda t: t["train"].update(learning_rate=0.5)), ("train.learning_rate: 0.5 (was 0.01)",)),
    "a budget": (recipe(lambda t: t["stages"][0]["budget"].update(steps=12)), ("budget.steps: 12 (was 10)",)),
    "the seed": (recipe(lambda t: t["train"].update(seed=1)), ("train.seed: 1 (was 0)",)),
    "a method": (recipe(lambda t: t["stages"][0]["methods"].append("asft")), ("methods.1", "not there")),
    "a key taken out": (recipe(lambda t: t["train"].pop("weight_decay")), ("weight_decay: not there (was 0.0)",)),
    "an eval file that is another": (recipe(lambda t: t["data"].update(eval=t["data"]["train"])), ("eval",)),
    "replay": (recipe(lambda t: t["data"].update(replay={"x": 0.2})), ("data.replay",)),
    "several": (
        recipe(lambda t: (lora(t).update(rank=8, alpha=3), t["train"].update(seed=1, eps=1e-7, betas=[0.1, 0.2]))),
        ("1 more",),
    ),
    "rows to learn from": (text("train.jsonl", "lost", "rate"), ("the rows", "the run began with")),
    "rows to measure on": (text("test.jsonl", "lost", "rate"), ("the eval rows",)),
    "a kept text": (text("keep.txt", "card", "bank"), ("the kept text keep",)),
    "a replayed text": (text("old.txt", "cash", "bank"), ("the replayed rows 1 of stages.main",)),
    "the model's config": (text("base/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'), ("config.json",)),
    "the chat template": (
        text("base/chat_template.jinja", "{%", " {%"),
        ("chat_template.jinja",),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_with_what_changed(what: str, killed: Path, bench: Bench) -> None:
    change, says = CHANGES[what]
    change(killed)
    before = {p.name: p.read_bytes() for p in (killed / "out").iterdir() if p.is_file() and p.name != ".lock"}
    done = bench.commands(killed, ["resume", "out"])
    assert done.code == errors.CheckpointError.code and "Traceback" not in done.stderr, done.stderr
    for part in (*says, "tunewright run" if "rows to learn" not in what else "begin a new run"):
        assert part in done.stderr, done.stderr
    after = {p.name: p.read_bytes() for p in (killed / "out").iterdir() if p.is_file() and p.name != ".lock"}
    assert after == before
    assert bench.commands(killed, ["resume", "out", "--verify"]).code == errors.CheckpointError.code


@pytest.mark.slow
def test_moved_files_and_another_layout_of_the_recipe_are_no_change(killed: Path, bench: Bench) -> None:
    if not (bench.folder / "whole").exists():
        assert bench.commands(bench.folder, ["run", "r.yaml", "--out", "whole"]).code == 0
    file = killed / "out" / "recipe.yaml"
    tree = yaml.safe_load(file.read_text())
    (killed / "moved").mkdir()
    for name in ("train.jsonl", "test.jsonl", "keep.txt", "base", "old.txt"):
        (killed / name).rename(killed / "moved" / name)
    moved = json.dumps(tree, indent=4).replace(str(killed), str(killed / "moved"))
    file.write_text("# a remark\n" + yaml.safe_dump(yaml.safe_load(moved), sort_keys=True))
    done = bench.commands(killed, ["resume", "out"])
    assert done.code == 0, done.stderr
    for name in ("stages/main/trained.safetensors", "adapter/adapter_model.safetensors", "rows.jsonl"):
        assert (bench.folder / "whole" / name).read_bytes() == (killed / "out" / name).read_bytes(), name


@pytest.mark.slow
def test_other_surroundings_are_said_in_the_report(killed: Path, bench: Bench) -> None:
    file = killed / "out" / "begun.json"
    began = json.loads(file.read_text())
    assert {"torch", "python", "device", "processor", "threads"} <= began["surroundings"].keys()
    began["surroundings"] |= {"torch": "0.1", "device": "cuda"}
    file.write_text(json.dumps(began))
    assert bench.commands(killed, ["resume", "out"], at(STEP, 3)).code == -signal.SIGKILL
    began["surroundings"] = {}  # the second time it is where it began: what happened between is still said
    file.write_text(json.dumps(began))
    done = bench.commands(killed, ["resume", "out"])
    assert done.code == 0, done.stderr
    report = json.loads((killed / "out" / "report.json").read_text())
    assert [n for n in report["notes"] if "begun with 0.1" in n and "begun with cuda" in n], report["notes"]
    assert report["run"]["resumed"] == 2


def test_the_same_surroundings_are_not_spoken_of(killed: Path, bench: Bench) -> None:
    assert bench.commands(killed, ["resume", "out"]).code == 0
    report = json.loads((killed / "out" / "report.json").read_text())
    assert not [n for n in report["notes"] if "surroundings" in n]


def test_what_a_run_began_with_is_read_or_refused(killed: Path, bench: Bench) -> None:
    (killed / "out" / "begun.json").write_text("{")
    done = bench.commands(killed, ["resume", "out"])
    assert done.code == errors.CheckpointError.code and "begun.json" in done.stderr and "Traceback" not in done.stderr


def test_an_order_of_tasks_that_changed_is_told_as_one(tmp_path):
    trees = [{"stages": [{"name": n, "budget": {"steps": i}} for i, n in enumerate(order)]} for order in ("abc", "bac")]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(trees[0]))
    (tmp_path / begun.BEGUN).write_text(json.dumps({"recipe": trees[1], "content": {}}))
    with pytest.raises(CheckpointError, match=re.escape("the order of the tasks: a, b, c (was b, a, c)")):
        begun.check_recipe(RunFolder(tmp_path))
    (tmp_path / begun.BEGUN).write_text(json.dumps({"recipe": {**trees[0], "seed": 3}, "content": {}}))
    with pytest.raises(CheckpointError, match=re.escape("(was 3)")):
        begun.check_recipe(RunFolder(tmp_path))
