"""Checks of methods that make records: what they make is whole, repeats, comes back from the journal, and depends on
every field; the models that they ask stay as they were.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from tunewright.conformance.bench import LABELS, MODELS, number_tokenizer, task_of
from tunewright.conformance.case import Case, Check, global_randomness_unchanged
from tunewright.conformance.fields import other_values
from tunewright.conformance.reading import Reads
from tunewright.contract.made import Made
from tunewright.contract.method import Method, arguments
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.contract.writer import Asked, Journal, Prompt, Reply, Writer
from tunewright.models.agreement import differing
from tunewright.models.flops import counting
from tunewright.runs.making import made_by
from tunewright.training.writing import LocalWriter

WORDS = ("river", "stone", "lamp", "road", "seven", "glass", "north", "salt", "ring", "cloud")
NAMES = tuple(f"class {i}" for i in range(LABELS))


class Scripted(Writer):
    """A writer that gives a few words with commas between them, drawn by the key of each draw. `says`: what it gives
    for each of them, {} being the word.
    """

    says: ClassVar[str] = "{}"

    def identity(self) -> dict[str, Any]:
        return {"scripted": self.name}

    def shown(self, prompt: Prompt) -> Any:
        return {"row": prompt.id} if isinstance(prompt, Record) else {"ask": str(prompt)}

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        return [[self._reply(a, d, max_new_tokens, temperature) for d in a.draws] for a in asked], len(asked)

    def _reply(self, asked: Asked, draw: str, limit: int, temperature: float) -> Reply:
        rng = random.Random(f"{draw}/{temperature}" if temperature else f"{self.name}/{self.shown(asked.prompt)}")
        words = rng.choices(WORDS, k=rng.randint(1, 8))
        said = ", ".join(self.says.replace("{}", word) for word in words[:limit])
        return Reply(said, len(words) <= limit, min(limit, len(words)), -float(len(words)))


class Silent(Scripted):
    """A writer that may not be asked."""

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        raise AssertionError("a model was asked for what is in the journal")


class Makes:
    """Tiny records of a method's task, with writers by script (or a tiny model), readers and a judge by hash."""

    def __init__(self, method: Method) -> None:
        self.method, self.reads = method, Reads(method)
        self.records = [
            Record({**r, "text": r.get("text", f"{r.get('prompt')} {r.get('completion')}")}, id=r.id, source=r.source)
            for r in self.reads.records
        ]
        places = {r.id: place for r, place in zip(self.reads.records, self.reads.records, strict=True)}
        for reader in self.reads.readers.values():
            rows_of = reader.rows_of
            reader.rows_of = lambda record, rows_of=rows_of: rows_of(places[record.id])  # type: ignore[misc]

    def made(
        self, *, writer: type[Writer] = Scripted, journal: Journal | None = None, batch: int = 16, local: bool = False
    ) -> list[Made]:
        """What the method makes of the records."""
        kept = journal or Journal()
        common: dict[str, Any] = {"stage": "tiny", "journal": kept, "batch": batch}
        says = {"says": type(self.method).conformance_says}
        scripted = type(writer.__name__, (writer,), says)
        writers: dict[str, Writer] = {n: scripted(n, **common) for n in self.method.speakers()}
        if local:
            task, tokenizer = self.reads.task, number_tokenizer()
            writers = {
                n: LocalWriter(
                    n,
                    bring=lambda: self.reads.adapted,
                    task=task,
                    tokenizer=tokenizer,
                    options=EncodeOptions(),
                    **common,
                )
                for n in writers
            }
        return made_by(
            "checked",
            self.method,
            self.records,
            writers=writers,
            readers=self.reads.readers,
            score=lambda answers: [_hashed(text) for _, text in answers],
            labels=NAMES if self.reads.task.labelled else None,
            round=1,
            rng=random.Random(0),
            where="conformance",
        )


def _hashed(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:4], 16) / 0xFFFF


def _told(made: Sequence[Made]) -> str:
    """What was made, as a text that is equal for equal results."""
    return json.dumps(
        [
            [dict(m.values), m.of.id, m.thrown, dict(m.scores), asdict(m.written) if m.written is not None else None]
            for m in made
        ]
    )


def makes(case: Case) -> None:
    """Whole records, from records that stay as they were; the same twice; and not simply those that it was given."""
    tiny = Makes(case.method)
    before = [dict(r) for r in tiny.records]
    with global_randomness_unchanged():
        first, again = tiny.made(), Makes(case.method).made()
    assert [dict(r) for r in tiny.records] == before, "records were edited"
    assert _told(first) == _told(again), "two equal calls differ"
    kept = [m for m in first if not m.thrown]
    assert kept, f"everything is thrown away: {sorted({m.thrown for m in first})}"
    given = [m for m in kept if dict(m.values) == dict(m.of)]
    assert len(given) < len(first), "it makes nothing but the records as they stand"


def fills_in_what_is_missing(case: Case) -> None:
    """A record without a label stands in as a row of the task, under its own id; the record itself stays."""
    tiny = Makes(case.method)
    for record in tiny.records:
        bare = Record({"text": record["text"]}, id=record.id, source=record.source)
        filled = case.method.stand_in(bare, NAMES)
        tiny.reads.task.encode(filled, number_tokenizer(), EncodeOptions(labels=NAMES))
        assert filled.id == record.id and list(bare) == ["text"], "the record itself was filled in"


def comes_back_from_its_journal(case: Case) -> None:
    """With a journal of what was written, all is made again in every bit and no model is asked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "replies.jsonl"
        first = Makes(case.method).made(journal=Journal(file))
        if not file.exists():
            assert "writers" not in arguments(type(case.method), "synthesize"), "it asks for writers and uses none"
            return
        again = Makes(case.method).made(writer=Silent, journal=Journal(file))
    assert _told(first) == _told(again), "what is made from the journal differs from what was made first"


def does_not_depend_on_batches(case: Case) -> None:
    """Asked one by one, writers draw what they draw side by side."""
    alone, together = (Makes(case.method).made(batch=n) for n in (1, 16))
    assert _told(alone) == _told(together), "what is made depends on which prompts are asked together"


def leaves_models_alone(case: Case) -> None:
    """Models that write or read keep weights, modes and gradients, and what they do is counted."""
    tiny = Makes(case.method)
    model = tiny.reads.adapted.model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    told = [(n, m.training) for n, m in model.named_modules()], [p.requires_grad for p in model.parameters()]
    with global_randomness_unchanged(), counting() as counted:
        tiny.made(local=_writes(case))
    assert not differing(before, model.state_dict()), "the model's weights were changed"
    after = [(n, m.training) for n, m in model.named_modules()], [p.requires_grad for p in model.parameters()]
    assert told == after and all(p.grad is None for p in model.parameters()), "modes or gradients were left behind"
    assert counted.total > 0, "no operation was counted"


def every_field_matters(case: Case) -> None:
    """Each parameter, changed alone, changes what is made or thrown away."""
    first = _told(Makes(case.method).made())
    for field in type(case.method).model_fields:
        others = other_values(case.method, field)
        assert others, f"no other value of '{field}' is known: give the field examples"
        assert any(_differs(o, first) for o in others), f"'{field}' changes nothing: tried {others}"


def _differs(method: Method, first: str) -> bool:
    return _told(Makes(method).made()) != first


def _makes(case: Case) -> bool:
    return "synthesize" in case.slots and task_of(case.method) in MODELS


def _writes(case: Case) -> bool:
    return "writers" in arguments(type(case.method), "synthesize") and task_of(case.method) == "text-generation"


def _asks(case: Case) -> bool:
    return _makes(case) and bool({"writers", "readers"} & set(arguments(type(case.method), "synthesize")))


def _fills_in(case: Case) -> bool:
    return _makes(case) and type(case.method).stand_in is not Method.stand_in


CHECKS = [
    Check("makes", _makes, makes),
    Check("fills in what is missing", _fills_in, fills_in_what_is_missing),
    Check("makes again from its journal", _makes, comes_back_from_its_journal),
    Check("makes alone as batched", _makes, does_not_depend_on_batches),
    Check("makes and leaves models alone", _asks, leaves_models_alone),
    Check("every field matters, making", _makes, every_field_matters),
]
