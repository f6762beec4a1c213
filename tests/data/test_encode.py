"""Records are encoded a window at a time, whatever the windows, and no more than one is held."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest

from tests import tiny
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.data import encode, store
from tunewright.data.encode import encode_all, windows
from tunewright.data.read import Place, Read, read_lazily
from tunewright.machine import collector
from tunewright.recipe import Source
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def records(*values) -> list[Record]:
    return [
        Record(v if isinstance(v, dict) else {"text": v}, id=f"r:{i}", where=f"r:{i}") for i, v in enumerate(values)
    ]


def test_a_window_ends_by_its_records_and_by_its_characters(monkeypatch):
    monkeypatch.setattr(encode, "WINDOW", 3)
    monkeypatch.setattr(encode, "CHARACTERS", 10)
    chat = {"messages": [{"role": "user", "content": "x" * 9}, {"role": "assistant", "content": "y"}]}
    given = records("a", "b", "c", "d", "e" * 10, "f", "g" * 9, chat, {"image": np.zeros(40, np.uint8)}, "h", "i")
    made = [[r.id for r in w] for w in windows(given)]
    assert made == [
        ["r:0", "r:1", "r:2"],
        ["r:3", "r:4"],
        ["r:5", "r:6"],
        ["r:7"],
        ["r:8"],
        ["r:9", "r:10"],
    ]
    assert [r for w in windows(given) for r in w] == given and list(windows([])) == []


@pytest.mark.parametrize("rows, characters", [(1, 1 << 18), (5, 1 << 18), (512, 40)])
def test_what_is_kept_of_rows_does_not_depend_on_the_windows(monkeypatch, tmp_path, rows, characters):
    some = [
        {"messages": [{"role": "user", "content": f"card {i}?"}, {"role": "assistant", "content": f"lost {i}"}]}
        for i in range(9)
    ]
    some += [{"text": "card lost fee " * 40}, {"text": ""}, {"prompt": "card", "completion": "lost"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    options = EncodeOptions(max_length=32)

    def made(folder):
        with store.Writer(folder) as writer:
            out = encode_all(
                read_lazily(Source(path="t.jsonl"), tmp_path), TASK, tiny.tokenizer(), options, into=writer
            )
            writer.finish({"counts": out.counts, "problems": [vars(p) for p in out.problems]})
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    usual = made(tmp_path / "usual")
    monkeypatch.setattr(encode, "WINDOW", rows)
    monkeypatch.setattr(encode, "CHARACTERS", characters)
    assert made(tmp_path / "other") == usual


def test_the_collector_waits_while_rows_are_encoded_and_is_as_it_was_after(monkeypatch):
    before, seen = gc.get_threshold(), []
    own = type(TASK).encode_many
    monkeypatch.setattr(type(TASK), "encode_many", lambda *a: seen.append(gc.get_threshold()[0]) or own(*a))
    encode_all(Read(Place("r"), records("card lost")), TASK, tiny.tokenizer(), EncodeOptions())
    assert seen == [collector.PATIENCE] and gc.get_threshold() == before
    with pytest.raises(KeyError), collector.patient_collector():
        raise KeyError
    assert gc.get_threshold() == before


def test_a_collector_that_is_off_stays_off():
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with collector.patient_collector():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
