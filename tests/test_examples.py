"""The recipes under examples/: checked, planned, and (slow) made short and run on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml
from typer.testing import CliRunner

from tests import tiny
from tunewright.commands import cli
from tunewright.weights import mergekit_yaml
from tunewright.weights.resolving import Operator

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def written(root: Path = FOLDER) -> dict[str, dict[str, object]]:
    """Every YAML file of the examples: path under the folder -> what it says."""
    files = sorted(f for f in root.rglob("*.yaml") if "runs" not in f.parts)
    return {f.relative_to(root).as_posix(): yaml.safe_load(f.read_text(encoding="utf-8")) for f in files}


RECIPES = [name for name, tree in written().items() if "task" in tree]
MERGES = [name for name, tree in written().items() if "merge_method" in tree]
SHORT = ["train.batch_tokens=128", "train.threads=1", "evaluation.rows=4", "evaluation.strengths=[1]"]
SHORT += [
    "evaluation.drift_sequences=2",
    "evaluation.drift_tokens=8",
    "evaluation.max_new_tokens=2",
    "evaluation.few_shot=0",
]


def tunewright(*args: str) -> str:
    done = CliRunner().invoke(cli.app, list(args))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, with the tiny base beside them."""
    folder = tmp_path_factory.mktemp("examples")
    copytree(FOLDER, folder / "examples", ignore=ignore_patterns("runs"))
    tiny.llama().save_pretrained(folder / "base"), tiny.tokenizer().save_pretrained(folder / "base")
    return folder / "examples"


def sets(recipe: str, examples: Path) -> list[str]:
    values = [f"model={examples.parent / 'base'}", *SHORT]
    stages = written()[recipe].get("stages")
    assert stages is None or isinstance(stages, list)
    values += [f"stages.{i}.budget.steps=2" for i in range(len(stages or [None]))]
    return [word for value in values for word in ("--set", value)]


def test_every_file_is_a_recipe_or_a_merge() -> None:
    assert set(written()) == {*RECIPES, *MERGES} and RECIPES and MERGES
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in page for name in written())


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_rows_are_good_and_it_names_a_base_that_ships(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    assert written()[recipe]["model"] == "nano"
    checked = json.loads(tunewright("check", str(FOLDER / recipe), "--json"))
    assert not checked["problems"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_can_be_planned(recipe: str, examples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    plan = json.loads(tunewright("plan", str(examples / recipe), "--json", *sets(recipe, examples)))
    assert [s["steps"] for s in plan["stages"]] == [2] * len(plan["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_can_be_run(recipe: str, examples: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tunewright("run", str(examples / recipe), "--out", str(tmp_path / "out"), "--quiet", *sets(recipe, examples))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert {s["steps"] for s in report["stages"]} == {2}


def commands(merge: str) -> list[list[str]]:
    """The commands that a merge's own comment gives, without the program's name."""
    lines = (FOLDER / merge).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#   tunewright ").split() for line in lines if line.startswith("#   tunewright ")]


@pytest.mark.parametrize("merge", MERGES)
def test_it_merges_what_its_commands_make(merge: str) -> None:
    request = mergekit_yaml.read(FOLDER / merge, Path("merged"))
    Operator(request).check_count(len(request.models), base=request.base is not None)
    *runs, last = commands(merge)
    assert [part.ref for part in request.models] == [words[words.index("--out") + 1] for words in runs]
    assert {(FOLDER / merge).parent / words[1] for words in runs} <= {FOLDER / name for name in RECIPES}
    assert last[:2] == ["merge", Path(merge).name]


@pytest.mark.slow
@pytest.mark.parametrize("merge", MERGES)
def test_its_models_are_merged(merge: str, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = examples / merge
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(examples.parent / "cache"))
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("base_model: nano", f"base_model: {examples.parent / 'base'}"), encoding="utf-8")
    for verb, *words in commands(merge):
        here = (file.parent / words[0]).relative_to(examples).as_posix()
        tunewright(verb, *words, *(sets(here, examples) if verb == "run" else []))
    assert (file.parent / "runs" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_desk_from_training_to_the_board(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    words = [str(tmp_path / "desk"), "--model", "nano", "--short", "--require", "drift <= 50"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "desk.py"), *words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "desk" / "answers.json").read_text())
    assert said.keys() == {"topics", "teams", "handbook", "fourth"} and said["topics"].keys() == {
        "nano",
        "topics",
        "topics@0.5",
    }
    assert [p.name for p in (tmp_path / "desk" / "gguf").iterdir()] == ["topics-q8_0.gguf"]
    assert "the board answers 200" in done.stdout
    none = subprocess.run(
        [sys.executable, str(FOLDER / "desk.py"), str(tmp_path / "other"), *words[1:-1], "drift <= -1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert none.returncode == 1 and "no adapter passed its gate" in none.stderr
