"""Starting a run from the page (`board --allow-run`): the ordinary `tunewright run` in a process of its own.

Nothing is started without the token that the terminal shows, sent in a header by a page of the board itself: another
site can neither know it nor send the header. The recipe is one below the board's folder or one that ships; the run's
folder is new and below the board's.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tunewright.board.index import opened
from tunewright.board.shell import href, rendered
from tunewright.recipe.load import packaged

DEPTH = 2
MOST = 200
"""Recipes that are offered."""
TAIL = 4000
"""Bytes of what a run printed that are shown."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


@dataclass
class Started:
    """A run that was started here."""

    name: str
    recipe: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def told(self) -> dict[str, Any]:
        code = self.process.poll()
        self.output.seek(max(0, os.fstat(self.output.fileno()).st_size - TAIL))
        said = self.output.read().decode("utf-8", "replace")
        return {"name": self.name, "recipe": self.recipe, "code": code, "said": said, "url": href("run", self.name)}


class Starter:
    """Starts runs below `root`, one at a time."""

    def __init__(self, root: Path):
        self.root, self.token = root, secrets.token_urlsafe(24)
        self._started: list[Started] = []
        self._lock = threading.Lock()

    def recipes(self) -> list[str]:
        """What may be started: recipes that ship, then files below the root that are no run's own."""
        return [*packaged(), *sorted(self._files())[:MOST]]

    def _files(self) -> list[str]:
        patterns = ["/".join(["*"] * d + ["*.yaml"]) for d in range(DEPTH)]
        files = [f for p in patterns for f in self.root.glob(p) if opened(self.root, f.parent, f.name)]
        return [f.relative_to(self.root).as_posix() for f in files if f.name not in ("recipe.yaml", "winner.yaml")]

    def told(self) -> list[dict[str, Any]]:
        """What was started and came of it, the last first."""
        with self._lock:
            return [one.told() for one in reversed(self._started)]

    def asked(
        self, body: bytes, *, token: str, kind: str, origin: str, origins: Collection[str]
    ) -> tuple[int, dict[str, Any]]:
        """Answer a request to start a run: (HTTP status, what to say). `body`: JSON of `recipe` and `name`."""
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode()) or origin not in origins:
            return 403, {"error": "the token is not the one that `tunewright board` printed when it began"}
        if kind.split(";")[0].strip() != "application/json":
            return 415, {"error": "the request is no JSON"}
        try:
            asked = json.loads(body)
            recipe, name = asked["recipe"], asked["name"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return 400, {"error": "a recipe and a name are needed"}
        if recipe not in self.recipes():
            return 400, {"error": "no such recipe is offered"}
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return 400, {"error": "a name is of letters, digits, points and dashes, and begins with a letter or digit"}
        return self._start(recipe, name)

    def _start(self, recipe: str, name: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if any(one.process.poll() is None for one in self._started):
                return 409, {"error": "a run that was started here is not at its end; one runs at a time"}
            folder = self.root / name
            if os.path.lexists(folder):
                return 409, {"error": f"there is already a folder named {name}"}
            output = tempfile.TemporaryFile()
            given = recipe if recipe in packaged() else str(self.root / recipe)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunewright", "run", given, "--out", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the run goes on when the board ends
            )
            self._started.append(Started(name, recipe, process, output))
        return 202, {"name": name, "url": href("run", name)}


def page(starter: Starter) -> str:
    """The page that starts runs."""
    return rendered("start.html", here="start", recipes=starter.recipes(), started=starter.told())
