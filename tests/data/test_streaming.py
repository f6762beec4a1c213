"""Streams: every row once a pass, the same order wherever they are resumed, nothing read twice to get there."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data import encode, opening, streaming
from tunewright.data.caution import repeated
from tunewright.data.dataset import Dataset, build, cursor
from tunewright.data.opening import lines
from tunewright.data.raw import Mark
from tunewright.data.sets import hub_stream, streamed_rows
from tunewright.data.streaming import Streamed
from tunewright.errors import CheckpointError, DataError
from tunewright.recipe import DataSpec, Source
from tunewright.tasks import get_task

TASK = get_task("text-generation")
TOKENIZER = tiny.tokenizer()


def write(folder: Path, sizes: list[int], ending: str = "jsonl") -> list[str]:
    """Files of so many rows, each row once; their texts."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [[f"{k} light {i}" for i in range(n)] for k, n in enumerate(sizes)]
    for k, some in enumerate(texts):
        path = folder / f"{k}.{ending}"
        rows = [{"text": t} for t in some]
        if ending in ("jsonl", "jsonl.gz", "json"):
            text = json.dumps(rows) if ending == "json" else "".join(json.dumps(r) + "\n" for r in rows)
            path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
        elif ending == "txt":
            path.write_text("\n\n".join(some) + "\n")
        elif ending == "csv":
            with path.open("w", newline="") as f:
                csv.writer(f).writerows([["text"], *([t] for t in some)])
        else:
            import pyarrow as pa
            import pyarrow.parquet

            table = pa.Table.from_pylist(rows)
            if ending == "parquet":
                pyarrow.parquet.write_table(table, path, row_group_size=3)
            else:
                with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table, 3)
    return [t for some in texts for t in some]


def stream(folder: Path, window: int = 4, **how: Any) -> Dataset:
    source = Source(path=str(folder), streaming=True)
    return build([source], TASK, TOKENIZER, EncodeOptions(), folder.parent / "cache", window=window, **how)


def rows_of(dataset: Dataset, *, seed: int = 0, shuffle: bool = True, batch_tokens: int = 30) -> Any:
    return cursor(dataset, seed=seed, batch_tokens=batch_tokens, shuffle=shuffle)


def take(at: Any, batches: int) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(r.id, e, tuple(r.input_ids)) for _ in range(batches) for r, e in at.next_batch()]


def position(dataset: Dataset, **how: Any) -> Streamed:
    assert dataset.stream is not None
    return Streamed(dataset.stream, how.pop("seed", 0), how.pop("shuffle", True), **how)


def given_by(at: Streamed, count: int) -> list[tuple[str, int]]:
    out = []
    for _ in range(count):
        _, row = at.next()
        out.append((row.id, at.epoch))
        at.advance()
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("streams")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 12), st.booleans())
@settings(max_examples=12, deadline=None)
def test_each_pass_gives_every_row_once_and_no_two_passes_alike(place, sizes, window, shuffle):
    folder = place / f"{sizes}-rows"
    texts = write(folder, sizes)
    at = position(stream(folder, window), shuffle=shuffle)
    passes = [given_by(at, len(texts)) for _ in range(3)]
    for epoch, one in enumerate(passes):
        assert len({i for i, _ in one}) == len(texts) and {e for _, e in one} == {epoch}
    in_files = [f"{k}.jsonl:{i + 1}" for k, n in enumerate(sizes) for i in range(n)]
    if not shuffle:
        assert [i for i, _ in passes[0]] == in_files
    elif len(texts) > 8 and min(window, max(sizes)) > 3:
        assert len({tuple(i for i, _ in one) for one in passes}) > 1
    assert at.seen["read"] == 3 * len(texts) and at.passes == 3


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "txt", "csv", "parquet", "arrow"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_resumed_anywhere_it_goes_on_to_the_bit(tmp_path, ending, shuffle):
    write(tmp_path / "big", [7, 10, 4], ending)
    whole = rows_of(stream(tmp_path / "big"), shuffle=shuffle)
    states, said = [], []
    for _ in range(16):
        states.append(json.loads(json.dumps(whole.state())))
        said.append(take(whole, 1))
    assert max(e for batch in said for _, e, _ in batch) >= 1  # into a second pass
    for k in (0, 1, 5, 9, 14):
        other = rows_of(stream(tmp_path / "big"), shuffle=shuffle)
        other.restore(states[k])
        assert [take(other, 1) for _ in range(16 - k)] == said[k:]
        assert other.state() == whole.state() and other.streamed() == whole.streamed()


def test_reading_ahead_changes_nothing(tmp_path):
    write(tmp_path / "big", [9, 9])
    data = stream(tmp_path / "big")
    assert given_by(position(data, ahead=True), 60) == given_by(position(data, ahead=False), 60)


def test_seeds_windows_and_shuffle_decide_the_order(tmp_path):
    write(tmp_path / "big", [40])
    first = given_by(position(stream(tmp_path / "big")), 40)
    assert given_by(position(stream(tmp_path / "big")), 40) == first
    for other in (
        position(stream(tmp_path / "big"), seed=1),
        position(stream(tmp_path / "big", window=40)),
        position(stream(tmp_path / "big"), shuffle=False),
    ):
        assert given_by(other, 40) != first
    numbers = [int(i.split(":")[1]) for i, _ in first]
    assert all(abs(n - 1 - place) < 4 for place, n in enumerate(numbers))  # a window of four moves a row by three
    assert len({tuple(n % 4 for n in numbers[i : i + 4]) for i in range(0, 40, 4)}) > 3  # and each in its own way


def test_a_mark_leaves_out_what_lies_before_it_without_reading_it(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe not text\n" * 50 + b"a\nb\n")  # whoever reads the first lines fails
    before = 50 * len(b"\xff\xfe not text\n")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    mark = Mark(50, before, 50)

    class Unread(io.BufferedReader):
        def read(self, *_):
            raise AssertionError("it reads what it should leave out")

    monkeypatch.setattr(opening, "opened", lambda path: Unread(io.FileIO(path)))
    assert list(lines(path, mark)) == [(51, "a"), (52, "b")]
    assert mark == Mark(50, before + 4, 52)


def test_windows_of_long_texts_hold_fewer(tmp_path, monkeypatch):
    write(tmp_path / "big", [12])
    monkeypatch.setattr(streaming, "CHARACTERS", 2 * encode.characters({"text": "0 light 1"}))
    at = position(stream(tmp_path / "big", window=12), ahead=False)
    at.next()
    assert at.seen["read"] == 2


def test_rows_that_cannot_be_used_are_refused_or_left_out_and_counted(tmp_path):
    write(tmp_path / "big", [6])
    with (tmp_path / "big" / "0.jsonl").open("a") as f:
        f.write('{"text": 5}\nno json\n{"text": "light"}\n')
    lenient = stream(tmp_path / "big", problems="skip")
    at = position(lenient)
    assert len({i for i, _ in given_by(at, 7)}) == 7
    assert at.seen["problems"] == 2 and at.seen["read"] == 9
    assert lenient.stream is not None and len(lenient.problems) == 2
    strict = Streamed(streaming.replace(lenient.stream, skip_bad=False), 0, False)
    given_by(strict, 4)
    with pytest.raises(DataError, match="big:7: text") as caught:
        given_by(strict, 4)
    assert "bad_rows: skip" in caught.value.remedy


def test_a_stream_without_a_row_ends_instead_of_going_round(tmp_path):
    write(tmp_path / "big", [3])
    data = stream(tmp_path / "big")
    (tmp_path / "big" / "0.jsonl").write_text('{"text": 5}\n' * 3)
    assert data.stream is not None
    with pytest.raises(DataError, match="no row of the stream can be used"):
        Streamed(streaming.replace(data.stream, skip_bad=True), 0, True).next()


def test_another_file_is_told_before_anything_is_learnt_from_it(tmp_path):
    write(tmp_path / "big", [30])
    at = rows_of(stream(tmp_path / "big"))
    take(at, 2)
    write(tmp_path / "big", [31])
    with pytest.raises(CheckpointError, match="not those that the run began with"):
        rows_of(stream(tmp_path / "big")).restore(at.state())


def test_only_the_first_records_are_read_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("tunewright.data.dataset.HEAD", 5)
    write(tmp_path / "big", [20])
    data = stream(tmp_path / "big")
    assert len(data.rows) == data.counts["read"] == 5 and data.streamed == (data,)
    stored = data.as_stored()
    assert stored.stream is None and len({r for r, _, _ in take(rows_of(stored), 40)}) == 5


def test_beside_a_stream_weights_are_shares_of_the_tokens(tmp_path):
    write(tmp_path / "big", [200])
    write(tmp_path / "small", [5])
    sources = [Source(path=str(tmp_path / "big"), streaming=True), Source(path=str(tmp_path / "small"))]
    data = build(sources, TASK, TOKENIZER, EncodeOptions(), tmp_path / "cache")
    assert set(data.shares().values()) == {0.5}
    sources[1].weight = 9.0  # "gone through so often an epoch" would be said of the first records alone
    weighed = build(sources, TASK, TOKENIZER, EncodeOptions(), tmp_path / "cache")
    assert repeated(weighed.sources) == [] != repeated(weighed.as_stored().sources)


def test_data_sets_of_the_hub_are_read_shard_by_shard_from_any_row_on(tmp_path):
    write(tmp_path / "hub", [8, 5], "parquet")
    data = hub_stream(str(tmp_path / "hub"), None, "train", None)
    assert data.num_shards == 2
    shards = [list(streamed_rows(data, k, 0, "hub")) for k in range(2)]
    assert sorted(len(s) for s in shards) == [5, 8]
    assert [n for n, _ in shards[0]] == list(range(1, len(shards[0]) + 1))
    for k, rows in enumerate(shards):
        for skip in (1, 4):
            assert list(streamed_rows(data, k, skip, "hub")) == rows[skip:]


def test_the_recipe_and_the_reader_shuffle_as_many_records():
    assert DataSpec.model_fields["shuffle_buffer"].default == streaming.WINDOW
