"""Parquet, Arrow and what `datasets` writes: values in Python's types, names for ids, damage told in one message."""

from __future__ import annotations

import datetime
import decimal
import io
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data import columnar
from tunewright.data.dataset import stored
from tunewright.data.read import read_all, read_lazily
from tunewright.errors import DataError
from tunewright.recipe import Source
from tunewright.tasks import get_task

datasets.disable_progress_bars()


def read(folder, name, **more):
    return read_all(Source(path=name, **more), folder)


def parquet(table, file):
    pq.write_table(table, file)


def ipc_file(table, file):
    with pa.ipc.new_file(file, table.schema) as f:
        f.write_table(table)


def ipc_stream(table, file):
    with pa.ipc.new_stream(file, table.schema) as f:
        f.write_table(table)


def feather(table, file):
    pyarrow.feather.write_feather(table, file)


WRITERS = {"t.parquet": parquet, "t.arrow": ipc_file, "s.arrow": ipc_stream, "t.feather": feather}

NOON = datetime.datetime(2024, 1, 31, 12)
VALUES = {
    "dictionary": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "large text": (pa.array(["x", ""], pa.large_string()), ["x", ""]),
    "numbers": (pa.array([7, None], pa.int16()), [7, None]),
    "booleans": (pa.array([True, None]), [True, None]),
    "list": (pa.array([[1, 2], None]), [[1, 2], None]),
    "nothing": (pa.nulls(2), [None, None]),
    "time": (pa.array([NOON, None]), ["2024-01-31 12:00:00", None]),
    "day": (pa.array([NOON.date(), None]), ["2024-01-31", None]),
    "decimal": (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
    "decimals": (pa.array([[decimal.Decimal("1.50"), None], []]), [["1.50", None], []]),
    "structure": (pa.array([{"a": [NOON]}, {"a": None}]), [{"a": ["2024-01-31 12:00:00"]}, {"a": None}]),
    "map": (
        pa.array([[("k", decimal.Decimal("1.50"))], None], pa.map_(pa.string(), pa.decimal128(3, 2))),
        [{"k": "1.50"}, None],
    ),
    "bytes": (pa.array([b"\xff", None]), [b"\xff", None]),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", WRITERS)
def test_values_of_every_type(tmp_path, name, kind):
    column, expected = VALUES[kind]
    WRITERS[name](pa.table({"text": ["a", "b"], "v": column}), tmp_path / name)
    got = read(tmp_path, name)
    assert [r["v"] for r in got.records] == expected and not got.problems
    assert [r.id for r in got.records] == [f"{name}:1", f"{name}:2"]


@pytest.mark.parametrize("name", WRITERS)
def test_text_that_is_no_utf_8_costs_its_row_alone(tmp_path, name):
    raw = pa.array([b"fine", b"\xff\xfe", b"fine, too"], pa.binary())
    WRITERS[name](pa.table({"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())}), tmp_path / name)
    got = read(tmp_path, name)
    assert [r["text"] for r in got.records] == ["fine", "fine, too"]
    assert [p.where for p in got.problems] == [f"{name}:2"] and "UTF8" in got.problems[0].reason


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused_in_one_message(tmp_path, name):
    WRITERS[name](pa.table({"text": [str(i) * 50 for i in range(200)]}), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no such file at all", whole[:7]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name}: not an? (Parquet|Arrow) file that can be read") as caught:
            read(tmp_path, name)
        assert caught.value.remedy and "\n" not in caught.value.what


def test_two_columns_of_one_name_are_refused(tmp_path):
    ipc_file(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "t.arrow")
    with pytest.raises(DataError, match="two columns are called 'text'"):
        read(tmp_path, "t.arrow")


@pytest.mark.parametrize("name", WRITERS)
def test_rows_with_much_in_them_come_a_few_at_a_time(tmp_path, monkeypatch, name):
    monkeypatch.setattr(columnar, "AT_ONCE", 100_000)
    seen = []
    made = columnar.Maker._made
    monkeypatch.setattr(columnar.Maker, "_made", lambda self, piece: seen.append(piece.num_rows) or made(self, piece))
    WRITERS[name](pa.table({"text": ["x" * 10_000] * 50}), tmp_path / name)
    assert sum(1 for _ in read_lazily(Source(path=name), tmp_path).records) == 50
    assert max(seen) <= 10 and sum(seen) == 50


FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "tags": datasets.Sequence(datasets.ClassLabel(names=["A", "B"])),
        "deep": {"x": [{"y": datasets.ClassLabel(names=["q", "r"])}]},
        "picture": datasets.Image(),
        "sound": datasets.Audio(),
    }
)


def a_set() -> datasets.Dataset:
    """Written as Arrow: the library encodes recordings through torchcodec, which is not needed to read them."""
    png = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(png, "PNG")
    rows = [
        {
            "text": text,
            "label": label,
            "tags": tags,
            "deep": {"x": deep},
            "picture": {"bytes": png.getvalue(), "path": None},
            "sound": {"bytes": b"RIFF", "path": "a.wav"},
        }
        for text, label, tags, deep in (
            ("a", 0, [0, 1], [{"y": 0}]),
            ("b", 1, [], []),
            ("c", -1, None, [{"y": 1}]),
        )
    ]
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    return datasets.Dataset(datasets.table.InMemoryTable(table))


def in_parquet(made, folder):
    made.to_parquet(folder / "t.parquet")
    return "t.parquet"


def in_arrow(made, folder):
    ipc_stream(made.data.table, folder / "t.arrow")
    return "t.arrow"


def saved(made, folder):
    made.save_to_disk(folder / "saved")
    return "saved"


@pytest.mark.parametrize("write", [in_parquet, in_arrow, saved])
def test_columns_of_datasets_keep_what_they_mean(tmp_path, write):
    records = read(tmp_path, write(a_set(), tmp_path)).records
    assert [r["label"] for r in records] == ["no", "yes", None]  # -1: held back
    assert [r["tags"] for r in records] == [["A", "B"], [], None]
    assert [r["deep"] for r in records] == [{"x": [{"y": "q"}]}, {"x": []}, {"x": [{"y": "r"}]}]
    assert records[0]["picture"]["bytes"].startswith(b"\x89PNG") and records[0]["sound"]["bytes"] == b"RIFF"


def test_features_that_cannot_be_read_are_refused(tmp_path):
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": '{"info": {"features": 3}}'})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="the features in its metadata cannot be read"):
        read(tmp_path, "t.parquet")


@pytest.fixture
def several(tmp_path):
    made = datasets.Dataset.from_dict({"text": [str(i) for i in range(10)]})
    datasets.DatasetDict({"train": made, "test": made.select([9])}).save_to_disk(tmp_path / "d")
    return tmp_path


@pytest.mark.parametrize(
    "split, texts",
    [
        (None, "0123456789"),
        ("train", "0123456789"),
        ("test", "9"),
        ("train[:20%]", "01"),
        ("train[-1:]+test", "99"),
        ("train[3:5]", "34"),
    ],
)
def test_splits_of_a_saved_data_set(several, split, texts):
    records = read(several, "d", split=split).records
    assert "".join(r["text"] for r in records) == texts
    assert [r.id for r in records] == [f"d:{i + 1}" for i in range(len(texts))]


@pytest.mark.parametrize("split", ["tset", "train[", "train[:x]"])
def test_a_split_that_a_saved_data_set_does_not_have(several, split):
    with pytest.raises(DataError, match="there is no split") as caught:
        read(several, "d", split=split)
    assert caught.value.remedy == "set split to one of: test, train"


def test_a_saved_data_set_without_train_asks_for_a_split(tmp_path):
    made = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"a": made, "b": made}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="several splits\n  -> set split to one of: a, b"):
        read(tmp_path, "d")


def test_a_damaged_saved_data_set_is_refused_in_one_message(several):
    (several / "d" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="a folder of `save_to_disk` that cannot be read") as caught:
        read(several, "d")
    assert caught.value.remedy


def test_rows_of_a_saved_data_set_come_in_its_order(tmp_path):
    made = datasets.Dataset.from_dict({"text": [str(i) for i in range(10)]}).select([7, 2, 5])
    made.save_to_disk(tmp_path / "d")
    assert [r["text"] for r in read(tmp_path, "d").records] == ["7", "2", "5"]


@pytest.fixture
def hub(monkeypatch):
    """What the hub is asked for; it answers with `a_set`, or raises what stands under "error"."""
    asked = {}

    def load(name, config, *, split, revision):
        asked.update(name=name, config=config, split=split, revision=revision)
        if "error" in asked:
            raise asked["error"]
        return a_set()

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_hub_data_set_is_asked_for_by_config_split_and_revision(tmp_path, hub):
    got = read(tmp_path, "some/data", config="en", split="train[:10%]", revision="abc").records
    assert hub == {"name": "some/data", "config": "en", "split": "train[:10%]", "revision": "abc"}
    assert [r["label"] for r in got] == ["no", "yes", None] and got[0]["tags"] == ["A", "B"]
    read(tmp_path, "some/data")
    assert (hub["config"], hub["split"], hub["revision"]) == (None, "train", None)


@pytest.mark.parametrize(
    "error, says, remedy",
    [
        (ValueError("Config name is missing. Please pick one among: ['a']"), "Config name is missing", "set config to"),
        (ValueError("Unknown split \"x\". Should be one of ['train']"), "Unknown split", "set split to"),
        (RuntimeError("Dataset scripts are no longer supported"), "no longer supported", "download its files"),
        (datasets.exceptions.DatasetGenerationError("broken"), "broken", "download it"),
    ],
)
def test_what_the_hub_does_not_give_is_one_message(tmp_path, hub, error, says, remedy):
    hub["error"] = error
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path, "some/data")
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize("key", ["config", "revision"])
def test_what_is_of_the_hub_alone_is_refused_of_a_file(tmp_path, key):
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(DataError, match=f"it has no {key}: that is of a data set of the hub"):
        read(tmp_path, "t.txt", **{key: "main"})


@pytest.mark.parametrize("path", ["t.txt", "quickstart:train"])
def test_a_split_of_what_has_none_is_refused(tmp_path, path):
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(DataError, match="it has no split 'test'"):
        read(tmp_path, path, split="test")


def test_a_folders_files_have_the_splits_that_their_names_say(tmp_path):
    for name in ("train", "test-1", "test-2"):
        (tmp_path / f"{name}.csv").write_text(f"text\n{name}\n")
    (tmp_path / "README.md").write_text("no row")
    assert [r["text"] for r in read(tmp_path.parent, tmp_path.name).records] == ["test-1", "test-2", "train"]
    assert [r["text"] for r in read(tmp_path.parent, tmp_path.name, split="test").records] == ["test-1", "test-2"]
    with pytest.raises(DataError, match="no split 'validation'\n  -> set split to one of: test, train"):
        read(tmp_path.parent, tmp_path.name, split="validation")


def rows_of(folder, source):
    made = stored(source, get_task("text-generation"), tiny.tokenizer(), EncodeOptions(), folder / "c", base=folder)
    return len(made.rows), len(list((folder / "c" / "rows").iterdir()))


def test_the_cache_tells_splits_and_changed_files_of_a_saved_data_set_apart(several):
    assert rows_of(several, Source(path="d")) == (10, 1)
    assert rows_of(several, Source(path="d")) == (10, 1)
    assert rows_of(several, Source(path="d", split="test")) == (1, 2)
    shutil.rmtree(several / "d" / "train")
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(several / "d" / "train")
    assert rows_of(several, Source(path="d")) == (2, 3)


def test_the_cache_tells_configurations_and_revisions_apart(tmp_path, hub):
    for i, more in enumerate(({}, {"config": "en"}, {"revision": "abc"}, {"config": "en"}), 1):
        source = Source(path="some/data", format="text", **more)
        assert rows_of(tmp_path, source) == (2, min(i, 3))  # one label is held back


def test_the_key_of_a_stored_trial_sees_a_saved_data_set_change(several):
    from tunewright.trials.trial_key import _content

    before = _content(Source(path="d"), several)
    assert before == _content(Source(path="d"), several) != _content(Source(path="d", split="test"), several)
    shutil.rmtree(several / "d" / "train")
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(several / "d" / "train")
    assert _content(Source(path="d"), several) != before
