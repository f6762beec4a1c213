"""docs/write-a-method.md, executed: its files become a package, which is listed, described, run and checked."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.small import write_inputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "write-a-method.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
RUN = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
SETS = [
    "model=./base",
    "data.train=train.jsonl",
    "data.eval=test.jsonl",
    "keep=[keep.txt]",
    "budget.steps=2",
    "measurement.strengths=[1]",
]
SETS += [
    "measurement.drift_sequences=2",
    "measurement.drift_tokens=8",
    "measurement.max_new_tokens=2",
    "train.batch_tokens=128",
    "train.precision=float32",
]


def files() -> dict[str, str]:
    return dict(FILE.findall(PAGE.read_text(encoding="utf-8")))


def install(folder: Path) -> None:
    """`pip install` of a page's package as it is printed, without an index; what it leaves for `importlib.metadata` is
    laid beside the sources, which stay the modules that are imported, as `pip install -e .` has it.
    """
    modules = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"]["py-modules"]
    site = folder / "site"
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), "."]
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.stem for p in site.glob("*.py")} == set(modules)
    (info,) = site.glob("*.dist-info")
    info.rename(folder / info.name)
    for left in (site, folder / "build", *folder.glob("*.egg-info")):
        shutil.rmtree(left, ignore_errors=True)


def do(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "TUNEWRIGHT_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    words = list(command)
    if words[0] == "tunewright":
        words = ["-c", "from tunewright.commands.cli import main; main()", *words[1:]]
    elif words[0] == "pytest":
        words = ["-m", "pytest", "-p", "no:cacheprovider", *words[1:]]
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for name, content in files().items():
        (folder / name).write_text(content)
    install(folder)
    write_inputs(folder, train=12, test=2)
    return folder


COMMANDS = [line for block in RUN.findall(PAGE.read_text(encoding="utf-8")) for line in block.splitlines()]


def test_the_page_has_what_is_tested_here() -> None:
    assert set(files()) == {"pyproject.toml", "careful.py", "test_careful.py", "recipe.yaml", "orthonormal_lora.py"}
    assert [c.split()[0] for c in COMMANDS] == ["tunewright"] * 3 + ["pytest"] * 2 + ["tunewright", "pytest"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands(package: Path, command: str) -> None:
    words = shlex.split(command)
    if words[1] == "run":
        words += [w for s in SETS for w in ("--set", s)]
    done = do(package, *words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    if words[-1] == "orthonormal-lora" and words[0] == "tunewright":
        assert "slots:      attach" in done.stdout
        assert all(w in done.stdout for w in ("rank r of the change", "alpha / r", "all-linear"))
    elif words[:2] == ["tunewright", "methods"]:
        assert (
            "careful" in done.stdout and "Careful: hold gradients back" in done.stdout
            if len(words) == 2
            else "slots:      gradient" in done.stdout
        )
        assert len(words) == 2 or all(w in done.stdout for w in ("fisher", "strength", "how far a sensitive"))
    elif words[1] == "run":
        assert (package / "out" / "report.json").is_file() and "careful" in (
            package / "out" / "recipe.yaml"
        ).read_text()
        report = json.loads((package / "out" / "report.json").read_text())
        assert report["run"]["parts"] == {"method careful": "careful-method 0.1"}
    else:
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed and int(passed[1]) >= 2 and "failed" not in done.stdout


HEAD = (
    '"""A method."""\n\nfrom pydantic import Field\n\nfrom tunewright.contract.method import Method\n\n\nclass '
    'Broken(Method):\n    """A method."""\n\n'
)
FILLS = "    def gradient(self, gradients):\n        return gradients\n"

BROKEN = {
    "a field without a type": (
        HEAD + "    amount = 2.0\n\n" + FILLS,
        "broken",
        ("Broken", "'amount' has no type", "amount: float"),
    ),
    "a field without a description": (
        HEAD + "    amount: float = 2.0\n\n" + FILLS,
        "broken",
        ("Broken.amount has no description",),
    ),
    "an argument that is not offered": (
        HEAD + "    def gradient(self, gradient):\n        return gradient\n",
        "broken",
        ("Broken.gradient asks for 'gradient'", "did you mean 'gradients'"),
    ),
    "no slot": (HEAD, "broken", ("Broken fills no slot", "objective")),
    "no module": (HEAD + FILLS, "brokn", ("'broken'", "brokn", "cannot be imported")),
    "no class": (HEAD + FILLS, "broken:Brokn", ("broken", "no 'Brokn'", "did you mean 'Broken'")),
    "no method": (HEAD + FILLS, "broken:Field", ("'Field'", "is no Method")),
    "two methods": (
        HEAD + FILLS + "\n\nclass Second(Method):\n    " + FILLS.strip() + "\n",
        "broken",
        ("2 Method classes",),
    ),
    "an error of its own": (
        "import math\nx = math.sqrt(-1)\n",
        "broken",
        ("broken.py:2", "ValueError", "math domain error"),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_method_is_said_once(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from tests.test_bad_input import outcome
    from tunewright import catalogue, errors

    code, value, says = BROKEN[case]
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = metadata.EntryPoint("broken", value, "tunewright.methods")
    monkeypatch.setattr(catalogue.folders.importlib.metadata, "entry_points", lambda group: [point])
    for cached in (catalogue.entries, catalogue.resolve._load):
        cached.cache_clear()
    try:
        status, message = outcome(["methods", "broken"], monkeypatch)
    finally:
        monkeypatch.undo()
        sys.modules.pop("broken", None)
        for cached in (catalogue.entries, catalogue.resolve._load):
            cached.cache_clear()
    assert status == errors.MethodError.code, message
    assert message.count("error: ") == 1 and "Traceback" not in message
    for part in says:
        assert part in message, message
