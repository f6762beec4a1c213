"""The verb `check`: a recipe from disk, the model's tokenizer, a printed verdict."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests import tiny
from tunewright.commands import cli
from tunewright.errors import DataError
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


def invoke(*args):
    return CliRunner().invoke(cli.app, ["check", *map(str, args)])


def test_bad_rows_are_data(recipe):
    checked = check_recipe(recipe)
    assert not checked.ok and [p.where for p in checked.bad_rows] == ["train.jsonl:2"]
    assert repr(checked) == "<CheckResult: not ok, 1 bad rows, 0 refusals, 0 notices>"
    assert "train.jsonl:2" in str(checked) and "completion" in str(checked)


def test_bad_rows_are_printed_and_make_it_fail(recipe):
    done = invoke(recipe)
    assert done.exit_code == DataError.code
    assert "train.jsonl:2" in done.stdout and "completion" in done.stdout and "1 bad rows" in done.stdout


def test_json_and_a_clean_copy_that_passes(recipe, tmp_path):
    report = json.loads(invoke(recipe, "--clean", tmp_path / "clean", "--json").stdout)
    assert report["problems"][0]["where"] == "train.jsonl:2" and len(report["written"]) == 2
    assert check_recipe(recipe, sets=["data.train=clean/train-train.jsonl"]).ok


def test_a_built_in_name_is_no_pictograph(recipe):
    assert "train quickstart:test: 300" in invoke(recipe, "--set", "data.train=quickstart:test").stdout
