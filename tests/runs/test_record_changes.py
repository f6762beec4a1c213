"""The slot `example` in a whole recipe: training rows are changed before they are encoded, and nothing else is."""

from __future__ import annotations

import random

import pytest
import torch
from pydantic import Field

from tests import small
from tunewright import catalogue
from tunewright.contract import Method, Record
from tunewright.errors import MethodError
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble


class Shouting(Method):
    """Put a word before some prompts."""

    word: str = Field("card", description="the word")
    share: float = Field(1.0, ge=0, le=1, description="share of the records")

    def example(self, record, rng):
        return record.replace(prompt=f"{self.word} {record['prompt']}") if rng.random() < self.share else None


class Careless(Method):
    """Gives a plain dict."""

    def example(self, record):
        return dict(record)


@pytest.fixture
def session_of(tmp_path, monkeypatch):
    small.write_inputs(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    own = {"shouting": Shouting, "careless": Careless}
    load, entry = catalogue.load_method, catalogue.entries()["lora"]
    known = {**catalogue.entries(), **{n: catalogue.Entry(n, "methods/inputs", entry.module) for n in own}}
    for module in (catalogue, catalogue.resolve):
        monkeypatch.setattr(module, "load_method", lambda name, where=None: own.get(name) or load(name, where))
    for module in (catalogue, catalogue.folders):
        monkeypatch.setattr(module, "entries", lambda: known)
    threads = torch.get_num_threads()
    yield lambda *methods, **changes: assemble(
        Recipe.load(small.write_recipe(tmp_path, stages__0__methods=["lora", *methods], **changes))
    )
    torch.set_num_threads(threads)


def ids(rows):
    return [list(r.input_ids) for r in rows]


def test_only_the_stages_own_rows_change(session_of):
    plain, shouted = session_of(), session_of("shouting")
    before, after = plain.stages[0].rows.rows, shouted.stages[0].rows.rows
    assert [r.id for r in before] == [r.id for r in after]
    assert all(len(a) > len(b) for a, b in zip(ids(after), ids(before), strict=True))
    assert ids(plain.eval.rows) == ids(shouted.eval.rows)
    assert plain.stages[0].rows.hash != shouted.stages[0].rows.hash


def test_parameters_and_the_seed_decide_and_equal_ones_are_read_from_the_cache(session_of):
    half = {"shouting": {"share": 0.5}}
    rows = [session_of(half).stages[0].rows for _ in range(2)]
    assert rows[0].hash == rows[1].hash
    changed = sum(a != b for a, b in zip(ids(rows[0].rows), ids(session_of().stages[0].rows.rows), strict=True))
    assert 5 < changed < 35
    assert session_of({"shouting": {"share": 0.5, "word": "pin"}}).stages[0].rows.hash != rows[0].hash
    assert session_of(half, train__seed=1).stages[0].rows.hash != rows[0].hash


def test_rows_held_out_are_neither_changed_nor_trained_on(session_of):
    plain, shouted = session_of(data__validation=0.25), session_of("shouting", data__validation=0.25)
    assert ids(plain.validation.rows) == ids(shouted.validation.rows)
    assert not {r.id for r in shouted.validation.rows} & {r.id for r in shouted.stages[0].rows.rows}


def test_what_is_no_record_is_refused(session_of):
    with pytest.raises(MethodError, match="'careless' gave dict for a record") as refusal:
        session_of("careless")
    assert "train.jsonl:1" in str(refusal.value) and "record.replace" in str(refusal.value)


def test_records_given_are_untouched():
    record = Record({"prompt": "a", "completion": "b"}, id="x:1")
    assert Shouting().example(record, random.Random(0))["prompt"] == "card a"
    assert record["prompt"] == "a"
