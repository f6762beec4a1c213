"""What a person meets at the command line beside results: completion, quiet runs, recipes that begin well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import small
from tests.running import HERE
from tunewright import errors
from tunewright.commands import cli


def offered(words: str, shell: str = "bash") -> list[str]:
    """What a shell is given for the last of these words."""
    program = "import sys; sys.argv[:] = ['tunewright']; from tunewright.commands.cli import main; main()"
    asked = {
        "_TUNEWRIGHT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "PYTHONPATH": str(HERE),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, cwd=HERE
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("tunewright re", {"resume"}),
        ("tunewright resume --ve", {"--verify"}),
        ("tunewright run quick", {"quickstart"}),
        ("tunewright methods lor", {"lora", "lora-fa", "lora-ga", "lora-plus", "loreft"}),
        ("tunewright methods obj", {"objective"}),
        (
            "tunewright init a b --task text-",
            {"text-classification", "text-generation", "text-ranking", "text-to-image"},
        ),
    ],
)
def test_a_shell_is_offered_what_a_verb_takes(words: str, some: set[str]) -> None:
    assert set(offered(words)) == some


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_too(shell: str) -> None:
    assert "resume" in "\n".join(offered("tunewright re", shell))


def test_recipes_here_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.commands import completing

    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.txt", "sub/c.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert completing.recipes("") == ["a.yaml", "quickstart"]
    assert completing.recipes("sub/") == ["sub/c.yml"] and completing.recipes("none/x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_printed(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # else it asks which shell started it
    shown = CliRunner().invoke(cli.app, ["--show-completion", shell], prog_name="tunewright")
    assert "complete" in shown.stdout and "_TUNEWRIGHT_COMPLETE" in shown.stdout, shown.output


@pytest.mark.parametrize("module", ["tunewright", "tunewright.cli", "tunewright.commands.cli"])
def test_the_command_line_as_a_module(module: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-m", module, "--version"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("tunewright "), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_cannot_be_printed_is_said() -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tunewright", "schema"]
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == errors.FolderError.code, done.stderr
    assert done.stderr.startswith("error: the disk is full") and "Exception ignored" not in done.stderr, done.stderr


def test_a_quiet_run_prints_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=8, test=2)
    recipe = small.write_recipe(tmp_path, stages__0__budget={"steps": 1}, measurement__strengths=[1.0])
    ran = CliRunner().invoke(cli.app, ["run", str(recipe), "--out", str(tmp_path / "out"), "--quiet"])
    assert ran.exit_code == 0 and "exact match" in ran.stdout and "keep" in ran.stdout, ran.output
    assert "loading" not in ran.output and "training" not in ran.output
    again = CliRunner().invoke(cli.app, ["resume", str(tmp_path / "out"), "--quiet"])
    assert again.exit_code == 0 and again.stdout == ran.stdout, "a finished run's result is shown again"
    told = CliRunner().invoke(cli.app, ["resume", str(tmp_path / "out"), "--json"])
    assert json.loads(told.stdout)["run"]["name"] == "out"
