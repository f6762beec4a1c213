"""Reading: file kinds, row shapes, and every bad file or row named with its place."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewright.data import npz
from tunewright.data.read import read_all, read_source
from tunewright.errors import DataError, TunewrightError
from tunewright.recipe import Source

GOOD = {"prompt": "a", "completion": "b"}


def write(path, rows, encoding="utf-8", end="\n"):
    path.write_bytes(end.join(json.dumps(r) if not isinstance(r, str) else r for r in rows).encode(encoding))
    return path


def source(path, **more) -> Source:
    return Source(path=str(path), **more)


def test_jsonl_keeps_line_numbers_and_ids_do_not_hold_the_folder(tmp_path):
    write(tmp_path / "t.jsonl", [GOOD, "", {**GOOD, "extra": 1}])
    records = list(read_source(Source(path="t.jsonl"), tmp_path))
    assert (
        [r.id for r in records] == ["t.jsonl:1", "t.jsonl:3"]
        and records[1]["extra"] == 1
        and records[0].shape == "prompt-completion"
    )


def test_all_bad_rows_are_collected_and_the_good_ones_kept(tmp_path):
    write(tmp_path / "t.jsonl", [GOOD, "{not json", "[1]", {"x": 1}, GOOD])
    got = read_all(Source(path="t.jsonl"), tmp_path)
    assert len(got.records) == 2 and [p.where for p in got.problems] == ["t.jsonl:2", "t.jsonl:3", "t.jsonl:4"]
    assert "column 2" in got.problems[0].reason and all(p.remedy for p in got.problems)
    with pytest.raises(DataError, match="t.jsonl:2"):
        list(read_source(Source(path="t.jsonl"), tmp_path))


def test_gzip_bom_crlf_and_json_arrays(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    write(tmp_path / "b.jsonl", [GOOD, GOOD], "utf-8-sig", "\r\n")
    (tmp_path / "c.json").write_text(json.dumps([GOOD, GOOD, 3]))
    write(tmp_path / "d.json", [GOOD, GOOD])
    counts = {
        n: (len(r.records), len(r.problems))
        for n in ("a.jsonl.gz", "b.jsonl", "c.json", "d.json")
        for r in [read_all(Source(path=n), tmp_path)]
    }
    assert counts == {"a.jsonl.gz": (1, 0), "b.jsonl": (2, 0), "c.json": (2, 1), "d.json": (2, 0)}


def test_parquet_text_npz_and_a_folder_of_them(tmp_path):
    pq.write_table(pa.Table.from_pylist([GOOD, GOOD]), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("one\nstill one\n\n\ntwo\n")
    got = read_all(source(tmp_path))
    assert [(r.shape, r.id) for r in got.records] == [
        ("prompt-completion", "a.parquet:1"),
        ("prompt-completion", "a.parquet:2"),
        ("text", "b.txt:1"),
        ("text", "b.txt:5"),
    ]
    assert got.records[2]["text"] == "one\nstill one"
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.array([1, 0]), names=np.array(["no", "yes"]))
    assert [r["label"] for r in read_source(source(tmp_path / "c.npz"))] == ["yes", "no"]


@pytest.mark.parametrize(
    "row, columns, shape, expected",
    [
        (
            {"messages": [{"role": "user", "content": "a"}]},
            {},
            "chat",
            {"messages": [{"role": "user", "content": "a"}]},
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            {},
            "sharegpt",
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                ]
            },
        ),
        ({"instruction": "do", "input": "x", "output": "y"}, {}, "alpaca", {"prompt": "do\n\nx", "completion": "y"}),
        ({"instruction": "do", "input": "", "output": "y"}, {}, "alpaca", {"prompt": "do", "completion": "y"}),
        (
            {"question": "q", "answer": "a"},
            {"prompt": "question", "completion": "answer"},
            "prompt-completion",
            {"prompt": "q", "completion": "a"},
        ),
        ({"text": "t", "label": 3}, {}, "text-label", {"text": "t", "label": 3}),
        ({"text": "t"}, {}, "text", {"text": "t"}),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            {},
            "preference",
            {"prompt": "p", "chosen": "c", "rejected": "r"},
        ),
        (
            {"chosen": [{"role": "user", "content": "a"}, 1], "rejected": [{"role": "user", "content": "a"}, 2]},
            {},
            "preference-chat",
            {"prompt": [{"role": "user", "content": "a"}], "chosen": [1], "rejected": [2]},
        ),
    ],
)
def test_shapes(tmp_path, row, columns, shape, expected):
    write(tmp_path / "t.jsonl", [row])
    (record,) = read_source(source(tmp_path / "t.jsonl", columns=columns))
    assert dict(record) == expected and record.shape == shape


@pytest.mark.parametrize(
    "row, more, field, says",
    [
        ({"question": "q", "answer": "a"}, {}, "prompt", "prompt: question"),
        ({"a": 1}, {"columns": {"text": "b"}}, "b", "does not have"),
        ({"text": "a"}, {"format": "chat"}, "messages", "has text"),
        ({"text": "a"}, {"format": "chta"}, "format", "did you mean 'chat'"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, {}, "conversations[0].from", "no speaker"),
        ({"conversations": [{"from": "human"}]}, {}, "conversations[0]", "'value'"),
        ({"conversations": "x"}, {}, "conversations", "list of turns"),
        ({"chosen": "a", "rejected": "b"}, {}, "prompt", "needs a prompt"),
        ({"chosen": [1], "rejected": [2]}, {}, "rejected", "begin alike"),
    ],
)
def test_bad_shapes(tmp_path, row, more, field, says):
    write(tmp_path / "t.jsonl", [row])
    (problem,) = read_all(source(tmp_path / "t.jsonl", **more)).problems
    assert problem.field == field and says in str(problem)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.jsonl", b"\x00\x01\x02", "binary"),
        ("a.jsonl", '{"text": "caf\u00e9"}'.encode("latin1"), "a.jsonl:1: not UTF-8"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", b'[{"text": "a"}]', "JSON array"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"3", "array of objects"),
        ("a.jsonl.gz", b"no gzip", "gzip file is broken"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-12], "gzip file is broken"),
        ("a.parquet", b"no parquet", "not a Parquet"),
        ("a.npz", b"no npz", "not an npz"),
        ("a.xls", b"a,b", "'.xls' cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_all(source(tmp_path / name))
    assert caught.value.remedy


def test_missing_files_and_empty_folders(tmp_path):
    write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(DataError, match="did you mean 'train.jsonl'"):
        read_all(source(tmp_path / "tran.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data file"):
        read_all(source(tmp_path / "empty"))
    with pytest.raises(TunewrightError, match="package has no data"):
        read_all(Source(path="quickstart:trane"))


def test_limit_counts_bad_rows_too(tmp_path):
    write(tmp_path / "t.jsonl", [GOOD, "x", GOOD, GOOD])
    got = read_all(source(tmp_path / "t.jsonl", limit=3))
    assert (len(got.records), len(got.problems)) == (2, 1)


def test_a_hub_id_without_a_network_says_so(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no answer")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(TunewrightError, match="cannot be had from the hub") as caught:
        read_all(Source(path="someone/data"), tmp_path)
    assert "give the file's path" in caught.value.remedy


def test_a_hub_data_sets_class_ids_become_names(monkeypatch, tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, revision: made)
    assert [r["label"] for r in read_source(Source(path="someone/data"), tmp_path)] == ["yes", "no"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pictures_of_an_npz_file_come_a_few_at_a_time_and_are_those_of_the_whole(tmp_path, monkeypatch, save, order):
    x = np.random.default_rng(0).random((11, 5, 4, 3)).astype(np.float32)
    x[0] /= 9  # darker than the rest: its range alone would be another
    save(tmp_path / "p.npz", x=np.asarray(x, order=order), y=np.arange(11))
    whole = [r["image"] for r in read_source(source(tmp_path / "p.npz"))]
    monkeypatch.setattr(npz, "AT_ONCE", 3 * x[0].nbytes)
    some = [r["image"] for r in read_source(source(tmp_path / "p.npz"))]
    assert len(whole) == len(some) == 11 and all(np.array_equal(a, b) for a, b in zip(whole, some, strict=True))
    assert np.array_equal(np.stack(some), np.rint(x * 255).astype(np.uint8))


def test_no_more_of_an_npz_file_is_held_than_a_few_pictures(tmp_path):
    x = np.full((400, 200, 200), 7, np.uint8)
    np.savez_compressed(tmp_path / "p.npz", x=x, y=np.arange(400))
    del x
    tracemalloc.start()
    rows = sum(1 for _ in read_source(source(tmp_path / "p.npz")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 400 and peak < 400 * 200 * 200 / 2


@pytest.mark.parametrize("shape, says", [((9, 2, 2), "ends after 4 of 9"), ((2, 2, 2), "more than its shape")])
def test_an_npz_file_that_does_not_hold_what_it_says_is_refused(tmp_path, shape, says):
    np.savez(tmp_path / "p.npz", x=np.zeros((4, 2, 2), np.uint8), y=np.arange(shape[0]))
    with zipfile.ZipFile(tmp_path / "p.npz") as f:
        members = {n: f.read(n) for n in f.namelist()}
    members["x.npy"] = members["x.npy"].replace(b"(4, 2, 2)", repr(shape).encode())
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as f:
        for name, body in members.items():
            f.writestr(name, body)
    with pytest.raises(DataError, match=says):
        list(read_source(source(tmp_path / "p.npz")))
