"""The verb `check`: a recipe from disk, the model's tokenizer, a printed verdict."""

from __future__ import annotations

import json

import pytest

from tests import tiny
from tunewright.planning.check import check_recipe


@pytest.fixture
def recipe(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {tmp_path}/model\ntask: text-generation\ndata: {{train: train.jsonl}}\nmethods: [full]\nbudget: "
        f"{{steps: 1}}\n"
    )
    return path


def test_bad_rows_are_printed_and_make_it_fail(recipe, capsys):
    assert not check_recipe(recipe)
    said = capsys.readouterr().out
    assert "train.jsonl:2" in said and "completion" in said and "1 bad rows" in said


def test_json_and_a_clean_copy_that_passes(recipe, tmp_path, capsys):
    assert not check_recipe(recipe, clean=tmp_path / "clean", json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["problems"][0]["where"] == "train.jsonl:2" and len(report["written"]) == 2
    assert check_recipe(recipe, ["data.train=clean/train-train.jsonl"])


def test_a_built_in_name_is_no_pictograph(recipe, tmp_path, capsys):
    check_recipe(recipe, ["data.train=quickstart:test"])
    assert "train quickstart:test: 300" in capsys.readouterr().out
