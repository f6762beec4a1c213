"""The Python of README and docs/, run from top to bottom on a tiny model, and read by mypy.

A page is one program: its blocks share their names. What would take long or needs the network is written smaller.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import classifying, small, tiny
from tunewright.runs.run import run

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "docs/adapters.md": "what tests/runs/test_adapters.py does",
    "docs/contract.md": "made of examples that tests/conformance runs",
    "docs/from-nothing.md": "what tests/tasks/test_object_detection.py draws and runs",
    "docs/jobs.md": "what tests/serve/test_jobs.py and tests/serve/test_tinker.py do with the same clients",
    "docs/serve.md": "a client that tests/serve/test_app.py runs against a server",
    "docs/vision-language.md": "what tests/tasks/test_image_text_to_text.py does with a tiny model that sees",
    "docs/write-a-method.md": "a package that tests/test_third_party.py installs and runs",
    "docs/write-a-task.md": "a package that tests/test_third_party_task.py installs and runs",
}
SMALLER = {
    '"smollm2-135m-instruct"': '"./base"',
    'budget={"steps": 100}': 'budget={"steps": 2}, **QUICK',
    '"hft", "full"], seeds': "], seeds",
    "stages.0.budget.steps=200": "stages.0.budget.steps=3",
    "seeds=8": "seeds=1, workers=1",
    "trials=8": "trials=2, workers=1",
    "seeds=4": "seeds=1, workers=1",
    '"tokens=200k"': '"steps=1"',
    "tune=True": "tune=False",
}
QUICK = {
    "train": {"threads": 1, "batch_tokens": 256},
    "measurement": small.RECIPE["measurement"] | {"strengths": [1.0]},
}
"""What the recipes on the pages leave at its default."""
PRINTS = {
    "README.md": ("exact match", "Estimate", "Report: runs/run/report.html"),
    "docs/python.md": (
        "seconds;",
        "ok: a run would take",
        "exact match",
        "evaluated rows",
        "did you mean 'lora'",
        "tensors",
    ),
    "docs/compare.md": ("word=",),
    "docs/report.md": (),
    "docs/claims.md": (),
    "docs/merge.md": (),
    "docs/reinforcement.md": (),
    "docs/selection.md": (),
    "docs/test-time.md": ("times set back",),
    "docs/synthesis.md": (),
    "docs/measure.md": ("value=", "unit='row'"),
}
STRICT = (
    "disallow-untyped-defs, disallow-incomplete-defs, disallow-untyped-calls, disallow-any-generics, "
    "no-implicit-reexport, strict-equality, warn-return-any, warn-unused-ignores, extra-checks"
)


def blocks(page: str) -> list[tuple[int, str]]:
    """(line of its first line, text) of every Python block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, m.start(1)) + 1, m[1]) for m in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    ]


def program(page: str) -> str:
    """The blocks as one program, each line where it stands in the page."""
    lines: list[str] = []
    for first, text in blocks(page):
        lines += [""] * (first - 1 - len(lines)) + text.splitlines()
    return "\n".join(lines) + "\n"


def test_every_page_with_python_is_tested() -> None:
    pages = {str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    assert {p for p in pages if blocks(p)} == {*PRINTS, *ELSEWHERE}


def test_what_is_written_smaller_stands_somewhere() -> None:
    whole = "".join(program(p) for p in PRINTS)
    assert not [text for text in SMALLER if text not in whole]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files and the run that the pages name."""
    folder = tmp_path_factory.mktemp("snippets")
    small.write_inputs(folder)
    for old, new in (
        ("train.jsonl", "tickets.jsonl"),
        ("test.jsonl", "tickets-test.jsonl"),
        ("keep.txt", "general.txt"),
    ):
        shutil.copy(folder / old, folder / new)
    for seed, name in ((1, "tickets-a"), (2, "tickets-b")):
        tiny.llama(seed).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    recipe = small.write_recipe(folder, "recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        run(recipe, folder / "runs" / "quickstart", quiet=True)
        (folder / "topics").mkdir()
        classifying.write_inputs(folder / "topics")
        topics = small.write_recipe(folder / "topics", "recipe", **classifying.recipe())
        run(topics, folder / "runs" / "topics", quiet=True)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PRINTS)
def test_a_pages_python_runs(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = program(page)
    for text, smaller in SMALLER.items():
        code = code.replace(text, smaller)
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(sys, "argv", ["page"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), {"__name__": "__page__", "QUICK": QUICK})
    for said in PRINTS[page]:
        assert said in out.getvalue(), said


@pytest.mark.slow
def test_mypy_accepts_the_pages(tmp_path: Path) -> None:
    files = []
    for page in PRINTS:
        files.append(tmp_path / (Path(page).stem.lower().replace("-", "_") + "_page.py"))
        code = program(page)
        files[-1].write_text(f"# mypy: {STRICT}\n{code.removeprefix(chr(10))}")
    reveal = tmp_path / "reveal.py"
    reveal.write_text('import tunewright\n\nreveal_type(tunewright.run)\nreveal_type(tunewright.resume("a"))\n')
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    done = subprocess.run(
        [*command, *map(str, files), str(reveal)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    notes = [line.split("Revealed type is ")[1] for line in done.stdout.splitlines() if "Revealed type is" in line]
    others = [line for line in done.stdout.splitlines() if "Revealed type is" not in line]
    assert done.returncode == 0 and not others, done.stdout + done.stderr
    assert (
        "recipe: tunewright.recipe.recipe.Recipe | str" in notes[0] and "-> tunewright.runs.result.Result" in notes[0]
    )
    assert notes[1] == '"tunewright.runs.result.Result"'
