"""Checks of a staged result: transformers loads all of it, tied weights are tied, and a few tokens give finite
logits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.errors import ModelError
from tunewright.machine import host

if TYPE_CHECKING:
    from tunewright.weights.engine import Engine


class Checker:
    """Loads a result and runs it in a process of its own, which has the memory of the model.

    The process starts at once, so that its imports overlap with the merge; `size`: the result's bytes.
    """

    def __init__(self, size: int, kinds: Sequence[str]):
        free = host.available_memory()
        self.note = None
        self._process: subprocess.Popen[str] | None = None
        if free is not None and size > 0.8 * free:
            self.note = (
                f"no forward pass was run: the result takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
                "memory are free"
            )
            return
        command = [sys.executable, "-P", "-m", "tunewright.weights._forward", *kinds[:1]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def check(self, folder: Path) -> list[str]:
        """Notes about what could not be checked. ModelError for a folder that does not work."""
        if self._process is None:
            return [self.note] if self.note else []
        return _judged(folder, *self._process.communicate(f"{folder.absolute()}\n"))

    def close(self) -> None:
        """End the process, whether or not it was asked."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _judged(folder: Path, said: str, erred: str) -> list[str]:
    try:
        verdict = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (erred.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"the result cannot be run: {last}", where=str(folder), remedy="check that the inputs run themselves"
        ) from None
    if verdict["wrong"]:
        raise ModelError(
            f"the result does not work: {verdict['wrong']}",
            where=str(folder),
            remedy="check that the inputs run themselves",
        )
    return list(verdict["notes"])


def write_delta(engine: Engine, folder: Path) -> None:
    """delta.json beside delta.safetensors: how to put the result on the base."""
    from tunewright.models import delta_format

    base = engine.base or next((s.base for s in engine.models if hasattr(s, "base")), None)
    if base is None:
        raise ModelError(
            "a delta needs the base that it is put on", where=engine.request.where, remedy="name it: --base FOLDER"
        )
    how = {
        "format": delta_format.FORMAT,
        "version": delta_format.VERSION,
        "base": {"name": base.ref, "hash": base.hash()},
        "apply": delta_format.APPLY,
        "tensors": len(engine.stored),
        "shapes": {n: list(e.shape) for n, e in sorted(engine.stored.items())},
        "deltas": {},
    }
    (folder / delta_format.HOW).write_text(json.dumps(how, indent=2) + "\n", encoding="utf-8")
