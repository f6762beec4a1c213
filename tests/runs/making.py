"""Makers of rows, a folder of inputs and what a run left of them: what tests of made rows share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

from tests import small
from tunewright import catalogue
from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Writer
from tunewright.files import checkpoint

QUICK: dict[str, Any] = {"measurement__strengths": [1.0], "stages__0__budget": {"steps": 2}}


class Continues(Method):
    """Goes on with the prompt of each record; every second text is thrown away."""

    model: str = Field("start", description="what writes")
    count: int = Field(1, description="texts of each record")
    tokens: int = Field(3, description="longest text")

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int:
        return self.count * count

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], round: int) -> list[Made]:
        asked = [Continue(r.get("prompt") or r["text"]) for r in records]
        answers = writers[self.model].generate(asked, count=self.count, max_new_tokens=self.tokens)
        flat = [(r, w) for r, some in zip(records, answers, strict=True) for w in some]
        return [
            Made({"text": f"round {round} {w.text}"}, r, w, thrown=w.nothing or ("every second" if i % 2 else ""))
            for i, (r, w) in enumerate(flat)
        ]


class Pairs(Method):
    """Pairs of the record's answer and what the model says."""

    def speakers(self) -> tuple[str, ...]:
        return ("start",)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        told = {"prompt": record["prompt"], "chosen": record["completion"], "rejected": "no"}
        return Record(told, id=record.id, source=record.source, where=record.where)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        answers = writers["start"].generate(list(records), max_new_tokens=3)
        return [
            Made({"prompt": r["prompt"], "chosen": r["completion"], "rejected": w.text or "no"}, r, w)
            for r, (w,) in zip(records, answers, strict=True)
        ]


class Nothing(Method):
    """Throws everything away, once a model was `asked` or at once."""

    asked: bool = Field(True, description="whether a model is asked before")

    def speakers(self) -> tuple[str, ...]:
        return ("start",)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        writers["start"].generate(list(records) if self.asked else [], max_new_tokens=1)
        return [Made({}, r, thrown="as it should be") for r in records]


class Wrong(Method):
    """Gives what is no `Made`, or is none of these records, or no JSON."""

    how: str = Field("list", description="what is wrong")

    def synthesize(self, records: Sequence[Record]) -> list[Any]:
        stranger = Record({"text": "x"}, id="elsewhere")
        wrong: dict[str, list[Any]] = {
            "list": [{"text": "x"}],
            "stranger": [Made({"text": "x"}, stranger)],
            "json": [Made({"text": "x", "more": torch.zeros(1)}, records[0])],
            "empty": [Made({}, records[0])],
        }
        return wrong[self.how]


class BadRow(Method):
    """Makes a record that can be a row, and one that cannot."""

    def synthesize(self, records: Sequence[Record]) -> list[Made]:
        return [Made({"prompt": "a", "completion": ""}, records[0]), Made({"text": "card lost"}, records[1])]


FOUND = {"continues": Continues, "pairs": Pairs, "nothing": Nothing, "wrong": Wrong, "bad-row": BadRow}


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, entry = catalogue.load_method, catalogue.entries()["lora"]
    for module in (catalogue, catalogue.resolve):
        monkeypatch.setattr(module, "load_method", lambda name, where=None: FOUND.get(name) or kept(name, where))
    known = {**catalogue.entries(), **{n: catalogue.Entry(n, "data/synthesize", entry.module) for n in FOUND}}
    for module in (catalogue, catalogue.folders):
        monkeypatch.setattr(module, "entries", lambda: known)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("made")
    small.write_inputs(folder, train=40)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def recipe(folder: Path, name: str = "r", **changes: Any) -> Path:
    return small.write_recipe(folder, name, **{**QUICK, **changes})


def told(run_folder: Path, stage: str = "main") -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(head, lines, rows) of what was made."""
    head, *lines = map(json.loads, (run_folder / "made" / f"{stage}.jsonl").read_text().splitlines())
    rows = list(map(json.loads, (run_folder / "made" / f"{stage}.rows.jsonl").read_text().splitlines()))
    return head, lines, rows


def trained(folder: Path, stage: str = "main") -> Any:
    return checkpoint.read(folder / "stages" / stage).tensors["trained"]


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())
