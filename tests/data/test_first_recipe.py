"""`init` and `check` on each kind of data: the columns are recognised, or their mapping is written."""

from __future__ import annotations

import csv
import json
import random

import datasets
import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests import small, tiny
from tunewright.commands import cli
from tunewright.errors import DataError
from tunewright.planning.columns import guessed

datasets.disable_progress_bars()
rng = random.Random(0)
ROWS = [(" ".join(rng.choices(small.WORDS, k=5)), rng.choice(small.LABELS)) for _ in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.llama().save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    tiny.vit().save_pretrained(folder / "vit")
    return folder


def comma(folder, header):
    with (folder / "t.csv").open("w", newline="") as f:
        csv.writer(f).writerows([header, *ROWS])
    return "t.csv"


def semicolon(folder, header):
    with (folder / "t.csv").open("w", newline="") as f:
        csv.writer(f, delimiter=";").writerows([header, *ROWS])
    return "t.csv"


def tab(folder, header):
    with (folder / "t.tsv").open("w", newline="") as f:
        csv.writer(f, delimiter="\t").writerows([header, *ROWS])
    return "t.tsv"


def sheet(folder, header):
    book = openpyxl.Workbook()
    for row in (header, *ROWS):
        book.active.append(row)
    book.save(folder / "t.xlsx")
    return "t.xlsx"


def table(header):
    return pa.table({name: [row[i] for row in ROWS] for i, name in enumerate(header)})


def parquet(folder, header):
    pq.write_table(table(header), folder / "t.parquet")
    return "t.parquet"


def arrow(folder, header):
    with pa.ipc.new_file(folder / "t.arrow", table(header).schema) as f:
        f.write_table(table(header))
    return "t.arrow"


def saved(folder, header):
    datasets.Dataset(datasets.table.InMemoryTable(table(header))).save_to_disk(folder / "saved")
    return "saved"


def array(folder, header):
    (folder / "t.json").write_text(json.dumps([dict(zip(header, row, strict=True)) for row in ROWS]))
    return "t.json"


WRITERS = (comma, semicolon, tab, sheet, parquet, arrow, saved, array)


def command(*arguments, code=0):
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == code and (done.exception is None or isinstance(done.exception, SystemExit)), done.output
    return done.output


def first_recipe(base, folder, data, model="base", code=0):
    said = command("init", str(base / model), str(folder / data), "--out", str(folder / "r.yaml"), code=code)
    return yaml.safe_load((folder / "r.yaml").read_text()) if not code else said


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "header, columns, task",
    [
        (("text", "label"), None, "text-classification"),
        (("Body", "Topic, short"), {"text": "Body", "label": "Topic, short"}, "text-classification"),
        (("Question", "ANSWER"), {"prompt": "Question", "completion": "ANSWER"}, "text-generation"),
    ],
)
def test_a_first_recipe_of_each_kind_is_one_that_a_run_would_take(base, tmp_path, write, header, columns, task):
    data = write(tmp_path, header)
    made = first_recipe(base, tmp_path, data)
    train = made["data"]["train"]
    assert made["task"] == task
    path = train if columns is None else train["path"]
    assert path == str(tmp_path / data) and (columns is None or train["columns"] == columns)
    said = json.loads(command("check", str(tmp_path / "r.yaml"), "--json"))
    assert said["ok"] and said["sources"][0]["counts"]["rows"] == 24


def test_a_first_recipe_of_a_folder_of_pictures(base, tmp_path):
    for i in range(24):
        at = tmp_path / "pets" / ("cat" if i % 2 else "dog") / f"{i}.png"
        at.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(at)
    made = first_recipe(base, tmp_path, "pets", "vit")
    assert made["task"] == "image-classification" and made["data"]["train"] == str(tmp_path / "pets")
    assert json.loads(command("check", str(tmp_path / "r.yaml"), "--json"))["sources"][0]["counts"]["rows"] == 24


def test_recordings_that_say_nothing_are_refused_by_name(base, tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "1.wav").write_bytes(b"RIFF")
    said = first_recipe(base, tmp_path, "sounds", code=DataError.code)
    assert "1.wav: the rows are recordings" in " ".join(said.split()) and "->" in said


def test_sheets_that_are_not_read_are_said_by_init_and_by_check(base, tmp_path):
    sheet(tmp_path, ("text", "label"))
    book = openpyxl.load_workbook(tmp_path / "t.xlsx")
    book.create_sheet("More")
    book.save(tmp_path / "t.xlsx")
    first_recipe(base, tmp_path, "t.xlsx")
    assert "is read, not 'More'" in (tmp_path / "r.yaml").read_text()
    (caution,) = json.loads(command("check", str(tmp_path / "r.yaml"), "--json"))["cautions"]
    assert "is read, not 'More'" in caution


def test_a_guess_is_said_to_be_one(base, tmp_path):
    comma(tmp_path, ("v2", "v1"))
    assert first_recipe(base, tmp_path, "t.csv")["data"]["train"]["columns"] == {"text": "v2", "label": "v1"}
    assert "columns guessed: look at them" in (tmp_path / "r.yaml").read_text()


MANY = [f"text number {i} of several" for i in range(8)]


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"Text": ["a"], "LABEL": ["b"]}, {"text": "Text", "label": "LABEL"}),
        ({"id": ["1"], "review body": ["a"], "stars": ["5"]}, {"text": "review body", "label": "stars"}),
        (
            {"query": ["a"], "accepted": ["b"], "worse": ["c"]},
            {"prompt": "query", "chosen": "accepted", "rejected": "worse"},
        ),
        ({"image_path": ["a"], "class": ["b"]}, {"image": "image_path", "label": "class"}),
        ({"content": ["a"], "when": ["b"]}, {"text": "content"}),
        ({"v1": ["x", "y"] * 4, "v2": MANY}, {"text": "v2", "label": "v1"}),
        ({"Unnamed: 0": list("01234567"), "v1": ["x", "y"] * 4, "v2": MANY}, {"text": "v2", "label": "v1"}),
        ({"v1": ["x", "y"], "v2": MANY[:2]}, {}),
        ({"v1": MANY, "v2": MANY}, {}),
        ({"v1": ["x"] * 8, "v2": ["long"] * 8}, {}),
        ({"a": ["1"], "b": ["2"], "c": ["3"]}, {}),
    ],
)
def test_columns_are_guessed_by_name_and_by_value(columns, expected):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert guessed(rows) == expected
    assert guessed([]) == {}
