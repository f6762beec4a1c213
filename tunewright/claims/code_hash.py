"""What a stored result speaks of, as hashes that are read in no time: what its claim declares, what the methods that
it names do. Whether the code still does the same is computed (see `behaviour`), not read off files.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunewright.claims.claim import Claim, Loaded, Scale
from tunewright.files import source
from tunewright.machine import installed
from tunewright.recipe.uses import MethodUse
from tunewright.trials import trial_key

WORDS = {"says", "differs", "scales", "real", "learnt", "redraws", "better_base"}
"""Fields that decide no run at a scale: words, what is laid over the others already, and what is asked of a result."""


def of_claim(loaded: Loaded, scale: Scale = "nano") -> str:
    """Of what a claim declares at a scale, of the lab task's recipe there, and of what its own measure does."""
    from tunewright.claims.lab.overlay import todays
    from tunewright.claims.lab.tasks import TASKS

    claim = loaded.claim.at_scale(scale)
    tree = claim.model_dump(mode="json", exclude_defaults=True, exclude=WORDS)
    for part in (tree, tree["method"], *tree.get("baselines", ())):
        part["extra"] = todays(part.get("extra", {}))
    what = [
        tree,
        todays(TASKS[claim.task].scales.get(scale, {})) if claim.task in TASKS else None,
        _own_code(loaded.file) if loaded.measure is not None or loaded.recipe is not None else None,
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _own_code(file: Path) -> list[str]:
    """What a claim's file does beside declaring it, and the private modules beside it that it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Assign) and _declares(node))]
    return [source.plain_text(ast.unparse(tree)), *sorted(source.plain(f) for f in beside(file) if f != file)]


def _declares(node: ast.Assign) -> bool:
    return any(isinstance(t, ast.Name) and t.id == "CLAIM" for t in node.targets)


_SHARED = re.compile(r"^from tunewright\.claims\.papers(?:\.(\w+))? import ([\w, ]+)", re.MULTILINE)


def beside(file: Path) -> set[Path]:
    """A claim's file and the private modules beside it that it imports, and they in turn."""
    used: set[Path] = set()
    queue = [file]
    while queue:
        here = queue.pop()
        if here not in used and here.is_file():
            used.add(here)
            for module, names in _SHARED.findall(here.read_text(encoding="utf-8")):
                modules = [module] if module else [n.split()[0] for n in names.split(",")]  # import _x as y
                queue += [file.parent / f"{n}.py" for n in modules if n.startswith("_")]
    return used


def of_methods(claim: Claim) -> str:
    """Of what the files of every method do that its arms name, with what they import beside what every run uses."""
    return source.plain_of(f for use in _uses(claim) for f in trial_key.method_files(use.name))


def of_code(loaded: Loaded) -> str:
    """Of all the package's code that a claim's digest may go through: equal as long as nothing of it has changed."""
    methods = [f for use in _uses(loaded.claim) for f in trial_key.method_files(use.name)]
    tasks = (source.PACKAGE / "tasks").glob("*.py")
    entries = [source.PACKAGE / "claims" / name for name in ("behaviour.py", "lab/tasks.py")]
    files = [loaded.file, *entries, *methods, *tasks, *installed.code()]
    code = source.plain_of(source.closure(files, trial_key.decides))
    source.keep()
    return code


def _uses(claim: Claim) -> Iterator[MethodUse]:
    """Methods by name wherever an arm writes some: its own list, its stages, after, measure, select."""
    for arm in claim.arms:
        yield from (MethodUse.model_validate(m) for m in [*arm.methods, *arm.uses])
        for extra in (claim.extra, arm.extra):
            yield from (MethodUse.model_validate(m) for m in _written(extra))


def _written(tree: Any) -> Iterable[Any]:
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key in ("methods", "after", "measure", "probes", "synthesize", "select"):
            yield from value if isinstance(value, list) else [value]
        elif key == "optimizer":
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from _written(item)
        else:
            yield from _written(value)
