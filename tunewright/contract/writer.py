"""Models that write for a method on `synthesize`, whoever runs them, with a journal of what they wrote.

A method asks for many answers at once and gets each with its tokens, its end and what drew it. Every draw is keyed by
(seed, stage, writer, prompt, how often it was asked before, number of the answer): it does not depend on the prompts
beside it. What comes back is in the journal before the method sees it, a line for each batch (of an address, for each
answer), so that a run which is killed asks for nothing twice, and gets the very same answers from a model that no seed
holds to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunewright.contract.records import Record
from tunewright.errors import CheckpointError, FolderError, MethodError
from tunewright.models.flops import book, counting


@dataclass(frozen=True)
class Continue:
    """A prompt that is no question: the text is gone on with as it stands, without a chat template."""

    text: str


Prompt = str | Continue | Record | Sequence[Mapping[str, str]]
"""What a writer is asked: a user's message; a text to go on with; a record, as its row asks in training (template,
system turn and chat template included); or turns of a conversation, {"role": ..., "content": ...}, the last a user's.
"""


@dataclass(frozen=True)
class Reply:
    """One answer as it came: `tokens` written, the sum of their log-probabilities in nats where it is known, whether
    the answer `ended` or was cut off, and why there is none, where it was `refused`.
    """

    text: str
    ended: bool
    tokens: int
    log_prob: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Written:
    """One answer with who gave it (`writer`), what it was asked (`prompt`, JSON values) and the key of its `draw`."""

    text: str
    ended: bool
    tokens: int
    log_prob: float | None
    refused: str
    writer: str
    prompt: Any
    draw: str

    @property
    def nothing(self) -> str:
        """Why there is no text here; "" where there is some."""
        return self.refused or ("" if self.text.strip() else "the writer gave nothing")


@dataclass(frozen=True)
class Asked:
    """One prompt of a batch: what it is, and the keys of the draws of its answers."""

    prompt: Prompt
    draws: tuple[str, ...]


class Journal:
    """Lines of JSON that are there once they are added, in a file or (None) in memory alone."""

    def __init__(self, path: Path | None = None):
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self.entries = {entry["key"]: entry for entry in _whole_lines(path)}

    def add(self, entry: dict[str, Any]) -> None:
        """Keep a line. FolderError where it cannot be written."""
        self.entries[entry["key"]] = entry
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as f:
                f.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise FolderError(
                f"what was generated cannot be kept: {e.strerror or e}",
                where=str(self.path),
                remedy="free space, then `tunewright resume` the run: it goes on behind the last whole line",
            ) from e


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; a last one without its end was being written when the run was killed, and is cut off."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as f:
            f.truncate(end)
    try:
        for line in data[:end].decode().split("\n")[:-1]:
            entry = json.loads(line)
            yield {"key": entry["key"], "replies": list(entry["replies"]), **entry}
    except (ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"what was generated so far cannot be read: {e}",
            where=str(path),
            remedy="put the file back, or take it away: all of it is then generated anew",
        ) from e


@dataclass
class Writer:
    """A model that writes, by the name that the method asked for. Subclasses say how (`_write`).

    `identity`: what decides its answers beside the prompt (a hash of its weights, or its address), in JSON values.
    `stage` and `seed` key its draws. `batch` prompts are written together. `around` is open while something is being
    generated. `counts`: prompts, replies, tokens read and written, empty, cut and refused replies,
    and those with a text whose tokens nobody counted (`uncounted`).
    """

    name: str
    seed: int = 0
    stage: str = ""
    journal: Journal = field(default_factory=Journal)
    batch: int = 16
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    counts: Counter[str] = field(default_factory=Counter)
    _before: Counter[str] = field(default_factory=Counter, repr=False)

    def identity(self) -> dict[str, Any]:
        """What decides the answers beside the prompts."""
        raise NotImplementedError

    def shown(self, prompt: Prompt) -> Any:
        """A prompt in JSON values, as it is kept beside its answers. MethodError for what cannot be asked."""
        raise NotImplementedError

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        """(the answers of each prompt, one a draw; tokens that were read) of one batch."""
        raise NotImplementedError

    def generate(
        self, prompts: Sequence[Prompt], *, count: int = 1, max_new_tokens: int = 128, temperature: float = 1.0
    ) -> list[list[Written]]:
        """`count` answers to each prompt, of at most `max_new_tokens` tokens; at `temperature` 0 the most likely.

        An answer may be empty, cut off or refused: `Written.nothing` and `ended` say so. ModelError where the model
        cannot be asked.
        """
        if count < 1 or max_new_tokens < 1 or temperature < 0:
            raise MethodError(
                f"{count} answers of {max_new_tokens} tokens at temperature {temperature:g} cannot be written",
                where="data.synthesize",
                remedy="ask for at least one answer of at least one token, at a temperature of 0 or more",
            )
        out: list[list[Written]] = []
        for start in range(0, len(prompts), self.batch):
            out += self._batch(prompts[start : start + self.batch], count, max_new_tokens, temperature)
        return out

    def _batch(
        self, prompts: Sequence[Prompt], count: int, max_new_tokens: int, temperature: float
    ) -> list[list[Written]]:
        shown = [self.shown(p) for p in prompts]
        asked = []
        for prompt, told in zip(prompts, shown, strict=True):
            digest = _digest(told)
            times = self._before[digest]
            self._before[digest] += 1
            begin = f"{self.seed}/{self.stage}/{self.name}/{digest}/{times}"
            asked.append(Asked(prompt, tuple(f"{begin}#{k}" for k in range(count))))
        return self._told(self._entry(asked, shown, max_new_tokens, temperature), shown, asked)

    def _entry(
        self, asked: Sequence[Asked], shown: Sequence[Any], max_new_tokens: int, temperature: float
    ) -> dict[str, Any]:
        """A batch's answers (`replies`) and the tokens that were `read` for them: out of the journal, or written now
        and in the journal before they are given.
        """
        key = self.key(asked, max_new_tokens, temperature)
        entry = self.journal.entries.get(key)
        if entry is None:
            with self.around(), counting() as counted:
                replies, read = self._write(asked, max_new_tokens, temperature)
            entry = self.entry(key, asked, shown, replies, read=read, flops=counted.total)
            self.journal.add(entry)
        else:  # it is booked as if it were done now, as it was for the process that did it
            book(float(entry["flops"]), 0.0, torch.empty(0))
        return entry

    def key(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> str:
        """The journal's key of a batch."""
        return _digest([self.identity(), [a.draws for a in asked], max_new_tokens, temperature])

    def entry(
        self,
        key: str,
        asked: Sequence[Asked],
        shown: Sequence[Any],
        replies: Sequence[Sequence[Reply]],
        *,
        read: int,
        flops: float,
    ) -> dict[str, Any]:
        """A line of the journal."""
        about = {"writer": self.name, "key": key, "read": read, "flops": flops, "prompts": list(shown)}
        kept = [[asdict(r) for r in answers] for answers in replies]
        return {**about, "draws": [list(a.draws) for a in asked], "replies": kept}

    def _told(self, entry: dict[str, Any], shown: Sequence[Any], asked: Sequence[Asked]) -> list[list[Written]]:
        self.counts.update({"prompts": len(shown), "read": entry["read"]})
        out = []
        for told, one, answers in zip(shown, asked, entry["replies"], strict=True):
            written = [
                Written(**a, writer=self.name, prompt=told, draw=d) for a, d in zip(answers, one.draws, strict=True)
            ]
            for w in written:
                flags = {
                    "empty": bool(w.nothing) and not w.refused,
                    "refused": bool(w.refused),
                    "cut": not (w.ended or w.refused),
                }
                flags["uncounted"] = bool(w.text) and not w.tokens
                self.counts.update({"replies": 1, "written": w.tokens, **{n: int(v) for n, v in flags.items()}})
            out.append(written)
        return out


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
