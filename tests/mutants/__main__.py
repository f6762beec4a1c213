"""Changes key lines of methods one at a time and runs their own tests: `python -m tests.mutants [METHOD ...]`.

A line whose change no test notices survives: the method's tests do not bite there. The checkout is never edited; each
change is made in a copy of the package that the tests import instead. What was found goes to `results.json` and, for
readers, to docs/mutants.md. `--left`: only what has no result yet. One process after another, forked with the libraries
loaded (Linux and macOS), so that a mutant costs seconds.
"""

from __future__ import annotations

import argparse
import compileall
import gc
import importlib
import json
import multiprocessing
import os
import py_compile
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants.listed import ROOT, Mutant, listed
from tests.mutants.page import PAGE, RESULTS, page

SECONDS = 300
"""Time that a mutant's tests may take: one that never ends has been noticed."""
FIRST = 2
"""Lines of each method that are changed before the others' turn: a run that is stopped has seen every method."""
LIBRARIES = ("torch._dynamo", "pydantic", "safetensors.torch", "scipy.stats", "hypothesis", "rich.console", "yaml")
MODELS = (
    "LlamaForCausalLM",
    "Qwen3ForCausalLM",
    "GPT2LMHeadModel",
    "BertForSequenceClassification",
    "ViTForImageClassification",
    "EfficientNetForImageClassification",
)
OWN = ("tunewright.training.train", "tunewright.conformance.bench", "tunewright.models.together", "tests.tiny")
"""What is loaded once, before the first fork: libraries, models, and what of ours no listed line stands in."""
JUDGES = ("tunewright.measure.calls", "tunewright.measure.checkers", "tunewright.measure.languages")
CHANGED = ("tunewright.methods", "tunewright.weights", "tunewright.data.select", "tunewright.data.synthesize", *JUDGES)
"""Packages whose modules every child loads anew."""


def run_tests(package: str, tests: Sequence[str], only: str, log: str, changed: str) -> None:
    """The child's work: run tests with `package` first on the path; its exit code is pytest's. Where the module that is
    `changed` was loaded before, all of ours is loaded anew: others hold what they took of it by name.
    """
    if changed in sys.modules:
        for name in [n for n in sys.modules if n.split(".")[0] in ("tunewright", "tests")]:
            del sys.modules[name]
    with open(log, "w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([package, str(ROOT)])
    os.environ["TUNEWRIGHT_CACHE"] = str(Path(package).parent / "cache")
    options = ["-q", "-x", "-m", "slow or not slow", "-p", "no:cacheprovider", "-o", f"pythonpath={package} {ROOT}"]
    sys.exit(int(pytest.main([*options, *(["-k", only] if only else []), *tests])))


def load_once(package: Path) -> None:
    """Import what no listed line stands in, ours from the copy of the package, so that children need not."""
    sys.path[:] = [str(package), *(p for p in sys.path if p and Path(p).resolve() != ROOT), str(ROOT)]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in (*LIBRARIES, *OWN):
        importlib.import_module(name)
    for name in MODELS:
        getattr(importlib.import_module("transformers"), name)
    early = [n for n in sys.modules if n.startswith(CHANGED)]
    assert not early, f"loaded before the first change: {', '.join(early)}"
    assert str(package) in str(sys.modules["tunewright"].__file__)
    gc.freeze()


def outcome(mutant: Mutant, package: Path, log: Path) -> int | None:
    """pytest's exit code on the method's tests, or None where they did not end in time."""
    changed = mutant.file.removesuffix(".py").replace("/", ".")
    given = (str(package), mutant.tests, mutant.only, str(log), changed)
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=given)
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode


def survives(mutant: Mutant, package: Path, log: Path) -> bool:
    """Whether the method's tests pass with the line changed. The copy of the package is whole again afterwards."""
    target = package / mutant.file
    try:
        target.write_text(mutant.mutated(), encoding="utf-8")
        code = outcome(mutant, package, log)
    finally:
        shutil.copyfile(ROOT / mutant.file, target)
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"no tests were run for {mutant.method}:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return code == pytest.ExitCode.OK


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the mutants asked for, one by one, and write results and page."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("methods", nargs="*", help="names of methods; none: all")
    parser.add_argument("--left", action="store_true", help="only mutants without a result")
    asked = parser.parse_args(arguments)
    every = list(listed())
    unknown = set(asked.methods) - {m.method for m in every}
    if unknown:
        parser.error(f"no lines are listed for {', '.join(sorted(unknown))}")
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results = {m.key: known[m.key] for m in every if m.key in known}
    todo = [m for m in every if (not asked.methods or m.method in asked.methods)]
    todo = [m for m in todo if m.key not in results] if asked.left else todo
    todo.sort(key=lambda m: [o for o in every if o.method == m.method].index(m) >= FIRST)
    for name in [n for n in sys.modules if n.startswith(("tunewright", "tests.methods"))]:
        del sys.modules[name]
    with tempfile.TemporaryDirectory(prefix="tunewright-mutants-") as folder:
        package, log = Path(folder) / "package", Path(folder) / "log"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tunewright", package / "tunewright", ignore=ignore)
        # by their contents: a change and its way back may fall into one second of a file's time
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(package, quiet=1, invalidation_mode=mode)
        load_once(package)
        whole: set[str] = set()
        for mutant in todo:
            if mutant.method not in whole and outcome(mutant, package, log) != pytest.ExitCode.OK:
                failed = log.read_text(encoding="utf-8")[-4000:]
                sys.exit(f"the tests of {mutant.method} fail without a change:\n{failed}")
            whole.add(mutant.method)
            began = time.monotonic()
            results[mutant.key] = "survived" if survives(mutant, package, log) else "killed"
            took = f"{time.monotonic() - began:.1f} s"
            print(f"{results[mutant.key]:<8}  {mutant.method}: {mutant.breaks} ({took})", flush=True)
            ordered = {m.key: results[m.key] for m in every if m.key in results}
            RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            PAGE.write_text(page(every, results), encoding="utf-8")
    PAGE.write_text(page(every, results), encoding="utf-8")
    left = [m for m in every if results.get(m.key) == "survived"]
    print(f"{len(results)} of {len(every)} lines changed, {len(left)} survived")


if __name__ == "__main__":
    main()
