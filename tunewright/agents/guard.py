"""What an agent's recipe may name, and what may be told to it: the evaluation rows are behind a lock.

The server's owner names the evaluation files and the folders that recipes may read. A recipe is refused that names an
evaluation file (by any path, link or copy), a run's folder (its rows.jsonl holds evaluation rows), anything outside of
the folders, or an address. Texts that go out have every text of an evaluation row taken out.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunewright.errors import DataError, RecipeError
from tunewright.files.checkpoint import sha256_of

SHORTEST = 12
"""Characters of an evaluation text below which it is no secret: a label, a number, a common word."""
WITHHELD = "[withheld: from an evaluation row]"
FIGURES = (
    "task", "data", "target", "kept", "packs", "drift", "trade", "cost", "trained", "stages", "training", "gate",
    "notes",
)  # fmt: skip
"""Parts of a report that an agent is shown; answers, examples of tokens, probes' tables and files are not."""
_UPWARDS = re.compile(r"\.\.[/\\]|[/\\]\.\.")
_KIND = re.compile(r"([a-z]+:)(.+)", re.DOTALL)
"""What stands before some paths: pack:FOLDER."""
RUN = ("name", "status", "stopped_in", "seconds", "attempt", "seed", "resumed")


_MOST_NAMES = 200


class Guard:
    """`roots`: folders that recipes may read; `locked`: evaluation files; `private`: folders of runs and recipes."""

    def __init__(self, roots: Sequence[Path], locked: Sequence[Path], private: Path):
        self.roots = [r.resolve() for r in roots]
        self.locked = [f.resolve() for f in locked]
        self.private = private.resolve()
        for place, what in [
            *((r, "folder of data") for r in self.roots),
            *((f, "evaluation file") for f in self.locked),
        ]:
            if not place.exists():
                raise DataError(f"there is no such {what}", where=str(place), remedy="name one that is there")
        self._hashes = {sha256_of(f) for f in self.locked if f.is_file()}
        self._texts = sorted({t for f in self.locked for t in _texts(f)}, key=len, reverse=True)

    def names(self) -> list[str]:
        """What recipes may name: files below the folders of data, from there, the first of very many."""
        found = sorted({f.relative_to(r).as_posix() for r in self.roots for f in _files(r) if not self._hidden(f)})
        return found[:_MOST_NAMES]

    def _hidden(self, file: Path) -> bool:
        return self._is_locked(file) or file.resolve().is_relative_to(self.private)

    def recipe(self, text: str, steps: int | None) -> str:
        """The recipe as it will be run: paths made absolute, the locked rows as `data.eval`. RecipeError where it may
        not be run. `steps`: the most that its stages may take together.
        """
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"this is no YAML: {error}", where="recipe", remedy="write a recipe's text") from None
        if not isinstance(tree, dict):
            raise RecipeError("a recipe is a mapping", where="recipe", remedy="write model:, task:, data: ...")
        for owner in (tree, *(s for s in tree.get("stages") or () if isinstance(s, dict))):
            data = owner.get("data")
            if isinstance(data, dict) and "eval" in data:
                raise RecipeError(
                    "evaluation rows are the server's own", where="data.eval", remedy="leave data.eval out"
                )
        if "test_time" in tree:
            raise RecipeError(
                "adapting on the evaluation rows is training on them", where="test_time", remedy="leave it out"
            )
        if steps is not None:
            _steps(tree, steps)
        tree = self._walked(tree, "")
        if self.locked:
            if not isinstance(tree.setdefault("data", {}), dict):
                raise RecipeError("data is a mapping", where="data", remedy="write data: {train: FILE}")
            tree["data"]["eval"] = [str(f) for f in self.locked]
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)

    def _walked(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {
                self._walked(k, where): self._walked(v, f"{where}.{k}" if where else str(k)) for k, v in value.items()
            }
        if isinstance(value, list):
            return [self._walked(v, f"{where}.{i}") for i, v in enumerate(value)]
        return self._named(value, where) if isinstance(value, str) else value

    def _named(self, text: str, where: str) -> str:
        """A text of the recipe; as an absolute path where it names what is there."""
        if "\n" not in text:  # a prompt may say what it likes
            if "://" in text:
                raise RecipeError("an address is not read here", where=where, remedy="name a file of the data folders")
            if text.startswith("~") or text == ".." or _UPWARDS.search(text):
                what = f"'{text}' leads out of the data folders"
                raise RecipeError(what, where=where, remedy="name a file inside of them")
        if (m := _KIND.match(text)) is not None:
            return m[1] + self._named(m[2], where)
        for root in self.roots:
            place = root / text
            matches = [Path(m) for m in glob.glob(str(place), recursive=True)] if glob.has_magic(text) else [place]
            if found := [m for m in matches if _exists(m)]:
                for match in found:
                    self._allowed(match.resolve(), where, text)
                return str(place)
        if Path(text).is_absolute() and ("\n" not in text or _exists(Path(text))):
            raise RecipeError(f"'{text}' is not in the data folders", where=where, remedy="name a file inside of them")
        return text

    def _allowed(self, place: Path, where: str, text: str) -> None:
        if not any(place.is_relative_to(r) for r in self.roots) or place.is_relative_to(self.private):
            raise RecipeError(f"'{text}' is not in the data folders", where=where, remedy="name a file inside of them")
        for file in _files(place):
            if self._is_locked(file):
                raise RecipeError(f"'{text}' is, or holds, evaluation rows", where=where, remedy="name training rows")
            if file.name == "rows.jsonl" and (file.parent / "recipe.yaml").exists():
                raise RecipeError(f"'{text}' holds a run's evaluated rows", where=where, remedy="name training rows")

    def _is_locked(self, file: Path) -> bool:
        for locked in self.locked:
            if file.resolve().is_relative_to(locked) or file.samefile(locked):
                return True
        return file.stat().st_size in {f.stat().st_size for f in self.locked} and sha256_of(file) in self._hashes

    def told(self, value: Any) -> Any:
        """A value that goes out, with what evaluation rows say taken out of its texts."""
        if isinstance(value, dict):
            return {self.told(k): self.told(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.told(v) for v in value]
        if not isinstance(value, str):
            return value
        for secret in self._texts:
            if secret in value:
                value = value.replace(secret, WITHHELD)
        return value

    def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """A report's figures; the answers that it shows are withheld, and so is every other text of rows."""
        out = {"run": {k: report["run"].get(k) for k in RUN}, "model": (report.get("model") or {}).get("name")}
        out |= {k: report[k] for k in FIGURES if report.get(k) is not None}
        out["probes"] = {
            n: {k: v for k, v in p.get("values", {}).items() if not isinstance(v, str)}
            for n, p in (report.get("probes") or {}).items()
        }
        shown = self.told(out)
        shown["withheld"] = f"{len(report.get('answers') or ())} answers to evaluation rows"
        return dict(shown)

    def checked(self, found: dict[str, Any]) -> dict[str, Any]:
        """What `check` says: problems of evaluation rows are counted and not shown, nor which rows occur in both."""
        names = {f.name for f in self.locked}

        def theirs(one: Any) -> bool:
            return any(n in json.dumps(one, ensure_ascii=False) for n in names)

        out = {k: v for k, v in found.items() if k not in ("problems", "skipped", "notices")}
        for kind in ("problems", "skipped", "notices"):
            entries = found.get(kind) or []
            out[kind] = [e for e in entries if not theirs(e) and e.get("kind") != "overlap"]
            out[f"{kind}_of_evaluation_rows"] = len(entries) - len(out[kind])
        return dict(self.told(out))


def overlap(found: dict[str, Any]) -> int:
    """How many rows of training occur in evaluation, as `check` says."""
    return sum(len(n.get("pairs") or ()) or 1 for n in found.get("notices") or () if n.get("kind") == "overlap")


def _files(place: Path) -> Iterator[Path]:
    """A file, or all files below a folder; links to folders are followed, each folder once."""
    if place.is_file():
        yield place
        return
    seen: set[str] = set()
    for folder, inner, names in os.walk(place, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (file for n in names if (file := Path(folder) / n).is_file())


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return False


def _steps(tree: dict[str, Any], most: int) -> None:
    owners = [s for s in tree.get("stages") or () if isinstance(s, dict)] or [tree]
    total = 0
    for owner in owners:
        budget = owner.get("budget")
        steps = budget.get("steps") if isinstance(budget, dict) else None
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise RecipeError(
                f"this server runs at most {most} steps, and the budget does not say how many",
                where="budget",
                remedy="write budget: {steps: N} (of each stage)",
            )
        total += steps
    if total > most:
        raise RecipeError(
            f"{total} steps are asked for, and {most} are allowed", where="budget", remedy="ask for fewer"
        )


def _texts(file: Path) -> Iterator[str]:
    """Texts of an evaluation file that are long enough to be told apart, whole and as JSON writes them."""
    for part in [file] if file.is_file() else sorted(p for p in file.rglob("*") if p.is_file()):
        try:
            content = part.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue  # not text: its rows are in no message as they stand in the file
        for line in content.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                value = re.split(r"[,;\t]", line.strip())
            for text in _leaves(value):
                if len(text) >= SHORTEST:
                    yield text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
