"""A rehearsal buffer: rows come back as they were, each has its chance, classes their places, and herding its means."""

from __future__ import annotations

import json
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.methods.driving import image_rows, text_rows
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.state import State
from tunewright.errors import MethodError
from tunewright.pieces.rehearsal import LEAVES, Buffer, herded, packed, unpacked


def buffer(size: int, keep="reservoir", *, key: int = 0, stage: str = "one", before=None, others=()) -> Buffer:
    made = Buffer(State(), size, keep, others)
    run = SimpleNamespace(rng=random.Random(key), plan=SimpleNamespace(stage=stage), earlier=Earlier())
    made.begin(run, before)
    return made


def labelled(classes, source: str = "s") -> list[Row]:
    return [Row(f"{source}:{i}", source, [7, 8 + i % 50], [1.0], c) for i, c in enumerate(classes)]


def left(of: Buffer, names=LEAVES):
    return left_of(of.memory["stage"], "er", names, of.state, json.loads(json.dumps(of.state.data)))


def test_rows_come_back_as_they_were():
    text = text_rows(1)[0]
    told = {"prompt_ids": text.input_ids[:2], "reference": "häß\n", "n": None, "deep": {"a": [1.5, "x"]}}
    text = text.replace(fields=told, weights=[0.0, 0.25, *text.weights[2:]])
    assert unpacked(packed(text)) == text
    picture = image_rows(3)[2]
    again = unpacked(packed(picture))
    assert again.replace(fields={}) == picture.replace(fields={}, input_ids=[])
    same = np.array_equal(again.fields["pixels"], picture.fields["pixels"])
    assert same and again.fields["pixels"].dtype == np.uint8 and again.fields["mean"] == picture.fields["mean"]
    sound = picture.replace(fields={"audio": np.linspace(0, 1, 7, dtype=np.float32), "size": np.array(3, np.int32)})
    again = unpacked(packed(sound))
    assert again.fields["audio"].tobytes() == sound.fields["audio"].tobytes() and again.fields["size"].shape == ()
    with pytest.raises(MethodError, match="cannot be kept"):
        packed(picture.replace(fields={"what": object()}))


def test_every_row_of_the_stream_is_kept_with_the_same_chance():
    """Vitter's property: size / seen for each row, the first ones and the last ones alike."""
    rows, size, runs = labelled(range(24)), 6, 400
    count = Counter[int]()
    for key in range(runs):
        b = buffer(size, key=key)
        for i in range(0, 24, 5):  # batches do not matter
            b.memory.update(b.admitted(rows[i : i + 5]).memory)
        count.update(c for _, c in b.slots)
    expected = runs * size / 24
    spread = (runs * 0.25 * 0.75) ** 0.5
    assert sum(count.values()) == runs * size and all(abs(count[i] - expected) < 4 * spread for i in range(24))
    halves = [sum(count[i] for i in part) for part in (range(12), range(12, 24))]
    assert abs(halves[0] - halves[1]) < 4 * (runs * size * 0.25) ** 0.5 * 2


def test_slots_hold_the_rows_that_the_memory_names():
    b = buffer(5, key=3)
    for i in range(0, 40, 4):
        b.add(labelled(range(40))[i : i + 4])
    assert [b.row(s).label for s in range(5)] == [c for _, c in b.slots]
    assert b.memory["seen"] == 40 and b.nbytes() == sum(len(packed(b.row(s))) for s in range(5))


def test_a_rare_class_keeps_its_places_and_a_common_one_is_drawn_fairly():
    stream = [0] * 60 + [1] * 6 + [0] * 40 + [2] * 3
    kept = Counter[int]()
    late = 0
    for key in range(40):
        b = buffer(9, "balanced", key=key)
        counts = Counter(c for _, c in b.admitted(labelled(stream)).memory["slots"])
        assert counts[2] == 3 and counts[1] >= 3 and counts[0] == 9 - 3 - counts[1]
        kept.update(counts)
        plain = buffer(9, key=key)
        late += sum(c == 2 for _, c in plain.admitted(labelled(stream)).memory["slots"])
    assert late < 40  # plainly drawn, three rows of 109 have a quarter of a place
    by_source = buffer(4, "balanced")
    by_source.add([r.replace(label=None) for r in [*labelled([0] * 30, "a"), *labelled([0] * 2, "b")]])
    assert Counter(c for _, c in by_source.slots) == {"a": 2, "b": 2}


def test_herding_is_the_greedy_choice_and_older_classes_give_way_from_their_ends():
    features = np.random.default_rng(0).normal(size=(12, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    wanted: list[int] = []
    for _ in range(5):  # by hand: of all rows that are left, the one that brings the mean nearest
        gaps = {i: np.linalg.norm(unit.mean(0) - unit[[*wanted, i]].mean(0)) for i in set(range(12)) - set(wanted)}
        wanted.append(min(gaps, key=gaps.get))
    assert herded(torch.tensor(features), 5) == wanted
    assert sorted(herded(torch.tensor(features), 50)) == list(range(12))
    b = buffer(8, "herding")
    rows = labelled([0] * 12 + [1] * 3)
    told = torch.cat([torch.tensor(features), torch.eye(5, dtype=torch.float64)[:3]])
    b.add(rows)
    assert len(b) == 0, "a stage sees rows of those before it"
    b.herd(rows, told, torch.tensor([0] * 12 + [1] * 3))
    assert [b.row(s).id for s in range(4)] == [rows[i].id for i in herded(torch.tensor(features), 4)]
    assert [c for _, c in b.slots] == [0] * 4 + [1] * 3
    second = buffer(8, "herding", stage="two", before=left(b))
    more = labelled([5] * 9, "t")
    second.herd(more, torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([5] * 9))
    assert [second.row(s).id for s in range(2)] == [b.row(s).id for s in range(2)]  # 8 // 3 of each, first chosen first
    assert [c for _, c in second.slots] == [0, 0, 1, 1, 5, 5] and second.state.get("rows.6") is None
    with pytest.raises(MethodError, match="no place for each of 3 classes"):
        small = buffer(2, "herding", stage="two")
        small.herd(rows + more, torch.cat([told, told[:9]]), torch.tensor([r.label for r in rows + more]))


def test_a_later_stage_begins_with_what_was_left_and_knows_whose_a_row_is():
    b = buffer(6, others=("logits",))
    rows = labelled(range(4))
    b.hold(b.admitted(rows), rows, logits={i: torch.full((3,), float(i)) for i in range(4)})
    second = buffer(6, stage="two", before=left(b, (*LEAVES, "logits")), others=("logits",))
    assert [second.row(s) for s in range(4)] == rows and second.earlier() == {"one": [0, 1, 2, 3]}
    assert second.other("logits", 2).tolist() == [2.0] * 3
    second.add(labelled([9], "t"))
    assert second.earlier() == {"one": [0, 1, 2, 3]} and second.slots[4] == ["two", 9]
    drawn = [second.draw(3, step) for step in range(20)]
    assert all(len(set(d)) == 3 for d in drawn) and len({tuple(d) for d in drawn}) > 5
    assert second.draw(3, 7) == drawn[7] and sorted(second.draw(99, 1)) == list(range(5))
    with pytest.raises(MethodError, match="left 4 rows, and buffer_size is 3"):
        buffer(3, stage="two", before=left(b))
    empty = buffer(6, stage="two", before=left(buffer(6)))  # a stage that trained on nothing
    assert not len(empty) and not empty.earlier() and empty.draw(3, 0) == []


def test_a_buffer_that_is_larger_than_the_data_says_so():
    b = buffer(50)
    b.add(labelled(range(4)))
    told = b.found()
    assert told.values == {"rows": 4, "size": 50, "rows seen": 4, "bytes": b.nbytes()} and told.rows == [("one", 4)]
    assert told.notes == ["the buffer has room for 50 rows and holds every row that came by, 4 with each pass counted"]
    full = buffer(3)
    full.add(labelled(range(4)))
    assert not full.found().notes
