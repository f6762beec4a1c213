"""Files that no program of the package reads (forge, image, citation, package) agree with the package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tunewright

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tree(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def pythons() -> set[str]:
    return {c.rsplit(" ", 1)[1] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}


def test_the_citation_is_of_this_version() -> None:
    citation = tree("CITATION.cff")
    assert citation["version"] == tunewright.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Source"]


def test_every_python_that_is_promised_is_tested_on_three_systems() -> None:
    matrix = tree(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == pythons() and min(pythons(), key=lambda v: int(v.split(".")[1])) == "3.11"
    assert {os.split("-")[0] for os in matrix["os"]} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_call_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    extras = PROJECT["project"]["optional-dependencies"]
    steps = [s for job in tree(path)["jobs"].values() for s in job["steps"]]
    commands = "\n".join(step["run"] for step in steps if "run" in step)
    assert set(re.findall(r"\bmake ([\w-]+)", commands)) <= targets
    assert all(name in extras for name in re.findall(r"\.\[(\w+)\]", commands))
    assert all((ROOT / name).is_file() for name in re.findall(r"(?:-r|-c|python) ([\w/]+\.\w+)", commands))
    assert all("uses" in step or "run" in step for step in steps)


def test_hooks_are_checks_of_make_lint() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lint is not None
    local = next(repo for repo in tree(".pre-commit-config.yaml")["repos"] if repo["repo"] == "local")
    called = [re.findall(r"(?:ruff|mypy)(?: check| format)?", hook["entry"])[0] for hook in local["hooks"]]
    assert called == re.findall(r"-m ((?:ruff|mypy)(?: check| format)?)", lint[1])


def test_the_image_copies_what_the_builder_gets() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*" and {line[1:] for line in lines if line.startswith("!")} == names
    assert all((ROOT / name).exists() for name in names)
    assert {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"} <= names


def test_the_source_package_holds_what_is_named() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all(name.startswith("/") and (ROOT / name[1:]).exists() for name in included)


def test_no_file_of_the_package_is_left_out_of_it() -> None:
    """What git ignores is left out of a build: a room called like a folder of results would be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard", "--", "tunewright"]
    assert subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""


def test_what_an_installed_package_must_hold_is_here() -> None:
    spec = importlib.util.spec_from_file_location("installed", ROOT / "tests" / "installed.py")
    assert spec is not None and spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    package = Path(tunewright.__file__).parent
    assert [name for name in installed.DATA if not (package / name).is_file()] == []
    with pytest.raises(SystemExit, match="tries the checkout"):
        installed.main()


def test_no_property_test_fails_for_being_slow():
    """A list of its own takes the place of the one in conftest.py; a busy machine draws examples slowly."""
    lists = [
        (file.name, said)
        for file in (ROOT / "tests").rglob("*.py")
        for said in re.findall(r"suppress_health_check=(\[.*?\]|[^,)]+\))", file.read_text(encoding="utf-8"))
        if file != Path(__file__)
    ]
    assert len(lists) > 5
    assert not [one for one in lists if "too_slow" not in one[1] and one[1] != "list(HealthCheck)"]
