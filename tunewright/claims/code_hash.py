"""Whether a stored result still speaks of the code that is here: hashes of a claim, of the methods it names, of its
base.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.claims.claim import FOLDER, Claim, Loaded
from tunewright.claims.results_io import ScaleResult
from tunewright.recipe.uses import MethodUse
from tunewright.trials.trial_key import closure


def of_files(files: Iterable[Path]) -> str:
    """One short hash of the source of some files, whatever folder they are in."""
    parts = sorted((f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in set(files))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def of_claim(loaded: Loaded) -> str:
    """Of the claim's own file, the private modules beside it that it imports, and what it declares (arms may come
    from another claim's file).
    """
    declared = loaded.claim.model_dump_json(exclude_defaults=True)
    return hashlib.sha256(f"{of_files(_beside(loaded.file))} {declared}".encode()).hexdigest()[:16]


_SHARED = re.compile(r"^from tunewright\.claims(?:\.papers)?(?:\.(\w+))? import ([\w, ]+)", re.MULTILINE)


def _beside(file: Path) -> set[Path]:
    """A claim's file, the private modules beside it and `tunewright.claims.merging` where it imports them, and they
    in turn.
    """
    found: set[Path] = set()
    queue = [file]
    while queue:
        here = queue.pop()
        if here not in found and here.is_file():
            found.add(here)
            for module, names in _SHARED.findall(here.read_text(encoding="utf-8")):
                wanted = [module] if module else [n.strip() for n in names.split(",")]
                queue += [FOLDER / f"{n}.py" for n in wanted if n.startswith("_")] + [
                    FOLDER.parent / "merging.py" for n in wanted if n == "merging"
                ]
    return found


def of_methods(claim: Claim) -> str:
    """Of the files of every method that its arms name, with the private modules they share."""
    files: set[Path] = set()
    for use in _uses(claim):
        entry = catalogue.lookup(use.name)
        if entry is not None and entry.file is not None:
            files.update(closure(entry.file))
    return of_files(files)


def _uses(claim: Claim) -> Iterable[MethodUse]:
    """Methods by name wherever an arm writes some: its own list, its stages, after, measure, select."""
    for arm in claim.arms:
        yield from (MethodUse.model_validate(m) for m in [*arm.methods, *arm.uses])
        for extra in (claim.extra, arm.extra):
            yield from (MethodUse.model_validate(m) for m in _written(extra))


def _written(tree: Any) -> Iterable[Any]:
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key in ("methods", "after", "measure", "probes", "select"):
            yield from value if isinstance(value, list) else [value]
        elif key == "optimizer":
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from _written(item)
        else:
            yield from _written(value)


def stale(loaded: Loaded, result: ScaleResult, base_hash: str | None = None) -> list[str]:
    """What has changed since a result was made: "claim", "method", "base" (where today's is known). Empty: nothing."""
    pairs = [("claim", result.claim_hash, of_claim(loaded)), ("method", result.method_hash, of_methods(loaded.claim))]
    if base_hash is not None and result.base_hash is not None:
        pairs.append(("base", result.base_hash, base_hash))
    return [what for what, then, now in pairs if then != now]
