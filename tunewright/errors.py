"""What a user sees when something is wrong: what it was, where, and what to write instead.

Every error that Tunewright raises on purpose is a `TunewrightError`; the command line prints it as one message and
exits with the class's `code`. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunewrightError(Exception):
    """One clear message. `where` is a file:line, field or row; `remedy` is what to write or do instead."""

    code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None):
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.remedy}" if self.remedy else text


class RecipeError(TunewrightError):
    """The recipe, a flag or a method's parameter is not valid."""

    code = 2


class DataError(TunewrightError):
    """A data file or row cannot be used."""

    code = 3


class ModelError(TunewrightError):
    """A model, tokenizer or adapter cannot be loaded or does not fit."""

    code = 4


class MethodError(TunewrightError):
    """Methods conflict, a need cannot be served, or a declared capability is exceeded."""

    code = 5


class CheckpointError(TunewrightError):
    """A checkpoint is unreadable, altered or belongs to another run."""

    code = 6


class FolderError(TunewrightError):
    """An output folder is locked, read-only, full or not what was expected."""

    code = 7


class NonFiniteError(TunewrightError):
    """Training or measuring met a value that is not finite; names the layer, the rows, the step."""

    code = 8


class MissingExtraError(TunewrightError):
    """An optional dependency or the network is needed for what was asked."""

    code = 9


class PartedError(TunewrightError):
    """A process that trained this run together with others is not there any more; `tunewright resume` goes on."""

    code = 12


class ClaimError(TunewrightError):
    """A claim, its lab task or its stored result cannot be used."""


class Interrupted(TunewrightError):
    """SIGTERM or Ctrl-C came and a checkpoint was written: `tunewright resume` goes on from there."""

    code = 75


INTERRUPTED = 75  # exit code after SIGTERM or Ctrl-C with a checkpoint written: `tunewright resume` goes on


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` known names that look like `name`, best first."""
    known = list(known)
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.lower().replace("_", "-"), candidate)
    found = difflib.get_close_matches(name.lower().replace("_", "-"), folded, n=n, cutoff=0.5)
    return [folded[f] for f in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'a' or 'b'?" or, with nothing near, the list of what is known."""
    known = sorted(known)
    near = nearest(name, known)
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return "known: " + ", ".join(known) if known else "none are known"
