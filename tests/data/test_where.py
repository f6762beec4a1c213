"""Sources that mean some rows of a file alone: `where` and `share`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import tiny
from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import build
from tunewright.data.read import read_all
from tunewright.data.where import draw_of
from tunewright.errors import DataError, RecipeError
from tunewright.recipe import Recipe, Source
from tunewright.tasks import get_task


@pytest.fixture
def rows(tmp_path):
    written = [{"text": f"t{i}", "class": i % 3, "team": "ab"[i % 2]} for i in range(12)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, [*written, {"text": "t12", "class": 1.0}])))
    return tmp_path


def read(rows, **more):
    found = read_all(Source(path="r.jsonl", columns={"label": "class"}, **more), rows)
    return [r["text"] for r in found.records], [r.id for r in found.records], found.problems


def test_rows_have_one_of_the_values_in_each_column(rows):
    assert read(rows, where={"team": "a"})[0] == ["t0", "t2", "t4", "t6", "t8", "t10"]
    assert read(rows, where={"team": ["a"], "label": [1, 2]})[0] == ["t2", "t4", "t8", "t10"]
    assert read(rows, where={"class": ["1"]})[1] == [f"r.jsonl:{i}" for i in (2, 5, 8, 11, 13)]  # as it is by its label
    assert read(rows, where={"team": "a"}, limit=5)[0] == ["t0", "t2", "t4"]  # of those that the limit lets through
    with pytest.raises(DataError, match="none of 13 rows has team: c"):
        read(rows, where={"team": "c"})


def test_shares_are_drawn_row_by_row_and_make_a_whole(rows):
    parts = [read(rows, share=s)[0] for s in ((0, 0.4), (0.4, 1))]
    assert sorted(sum(parts, [])) == sorted(f"t{i}" for i in range(13)) and min(map(len, parts)) > 1
    draws = [draw_of(f"r.jsonl:{i}") for i in range(4000)]
    assert abs(np.mean(draws) - 0.5) < 0.02 and abs(np.mean([d < 0.1 for d in draws]) - 0.1) < 0.02
    with pytest.raises(RecipeError, match="from one number to a larger one"):
        Recipe(
            model="nano", task="fill-mask", data={"train": {"path": "r.jsonl", "share": [0.5, 0.1]}}, methods=["lora"]
        )


def test_others_bad_rows_are_not_its_own(rows):
    with (rows / "r.jsonl").open("a") as file:
        file.write('\n{"team": "a", "class": 1, "text": 3, "image": 0}\n{"wrong": 1, "team": "b"}')
    assert not read(rows, where={"team": "a"})[2] and len(read(rows, where={"team": "b"})[2]) == 1


def test_encoded_rows_of_one_file_are_kept_apart(rows):
    def made(**more):
        source = Source(path="r.jsonl", columns={"label": "class"}, **more)
        options = EncodeOptions(labels=("0", "1", "2"))
        return build(
            [source], get_task("text-classification"), tiny.tokenizer(encoder=True), options, rows / "c", base=rows
        )

    different = [made(), made(where={"team": "a"}), made(where={"team": ["a", "b"]}), made(share=(0, 0.5))]
    assert len({d.hash for d in different}) == 4 and len(different[1].rows) == 6
    assert made(where={"team": ["b", "a"]}).hash == different[2].hash
