"""Writers that say what a test gives them: what tests of methods on `synthesize` ask."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Asked, Continue, Prompt, Reply, Writer
from tunewright.runs.making import made_by

Say = Callable[[Any, int], Reply | str]
"""(the prompt as it is kept, number of the answer) -> what is said."""


@dataclass
class Told(Writer):
    """Says what `say` gives, and keeps what it was asked."""

    say: Say = lambda prompt, k: "nothing"
    asked: list[tuple[Any, int, float]] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        return {}

    def shown(self, prompt: Prompt) -> Any:
        shown = prompt.id if isinstance(prompt, Record) else prompt
        return shown.text if isinstance(shown, Continue) else shown

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        out = []
        for a in asked:
            self.asked.append((self.shown(a.prompt), max_new_tokens, temperature))
            said = [self.say(self.shown(a.prompt), int(d.rpartition("#")[2])) for d in a.draws]
            out.append([s if isinstance(s, Reply) else Reply(s, True, len(s.split())) for s in said])
        return out, 0


def made(
    method: Method,
    records: Sequence[Record],
    say: Say,
    score: Callable[[Record, str], float] = lambda record, text: 0.0,
    others: Mapping[str, Say] | None = None,
    **more: Any,
) -> tuple[list[Made], Told]:
    """What a method makes of records, and the writer that it asked; `others`: what further speakers say, by name."""
    voices = {n: Told(n, say=one) for n, one in (others or {}).items()}
    (name,) = [n for n in method.speakers() if n not in voices] or ["start"]
    writer = Told(name, say=say)
    given: dict[str, Any] = {"readers": {}, "labels": None, "round": 1, "rng": random.Random(0), "where": "here"}
    found = made_by(
        "method",
        method,
        records,
        writers={name: writer, **voices},
        score=lambda answers: [score(r, t) for r, t in answers],
        **{**given, **more},
    )
    return found, writer
