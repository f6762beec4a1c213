"""Pipelines of diffusers under the other verbs: what serves them, and what refuses in one message."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests import drawing
from tests.drawing import recipe
from tunewright.errors import FolderError, MethodError, MissingExtraError, ModelError
from tunewright.finished.chat import chat
from tunewright.loading.load import load
from tunewright.loading.locate import check_folder
from tunewright.loading.pipelines import patterns
from tunewright.paired.sides import asked, task_named
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.runs.run import run
from tunewright.shipping.opened import plain
from tunewright.tasks._parts import UNCONDITIONAL
from tunewright.weights.opening import open_source


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return drawing.place(tmp_path, UNCONDITIONAL)


def test_without_diffusers_one_message_says_what_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"diffusers, which is not installed\n  -> .*tunewright\[diffusion\]"):
        load(str(place / "base"), UNCONDITIONAL)


def test_a_first_recipe_names_the_pipelines_task(place: Path) -> None:
    text = starter(str(place / "base"), place / "train.jsonl")
    assert f"task: {UNCONDITIONAL}" in text and "- full" in text
    assert task_named([asked(str(place / "base"))], None) == UNCONDITIONAL


def test_check_and_plan_say_of_a_bad_row_where_it_stands(place: Path) -> None:
    (place / "bad.jsonl").write_text((place / "train.jsonl").read_text() + json.dumps({"image": "none.png"}) + "\n")
    found = check_recipe(recipe(place, UNCONDITIONAL, data__train="bad.jsonl"))
    assert [p.where for p in found.bad_rows] == ["bad.jsonl:9"]
    planned = plan(recipe(place, UNCONDITIONAL), quiet=True)
    assert planned is not None


def test_what_no_pipeline_can_do_is_one_message(place: Path) -> None:
    run(recipe(place, UNCONDITIONAL, budget__steps=1), place / "out", quiet=True)
    with pytest.raises(MethodError, match="writes no text"):
        chat(place / "out")
    for named in (place / "out", place / "base"):
        with pytest.raises(MethodError, match="a pipeline of diffusers"), plain(named, place / "other"):
            pass
    with pytest.raises(ModelError, match="a pipeline of diffusers"):
        open_source(str(place / "base"))
    with pytest.raises(ModelError, match="reads a pipeline of several parts"):
        run(recipe(place, UNCONDITIONAL, model={"config": {"model_type": "llama"}}), place / "fresh", quiet=True)
    with pytest.raises((ModelError, MethodError), match=r"offload_param|not read from disk"):
        run(recipe(place, UNCONDITIONAL, train__offload_param="disk"), place / "away", quiet=True)


def test_what_is_fetched_of_a_hub_is_the_parts_that_are_read(tmp_path: Path) -> None:
    from fnmatch import fnmatch

    def taken(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns())

    assert all(map(taken, ("model_index.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json")))
    assert taken("text_encoder/model.safetensors") and taken("vae/config.json") and taken("tokenizer/merges.txt")
    others = ("v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin")
    assert not any(map(taken, others))
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_folder(tmp_path)


def test_a_damaged_weight_is_refused(place: Path) -> None:
    file = place / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut off"):
        load(str(place / "base"), UNCONDITIONAL)
    shutil.rmtree(place / "base" / "unet")
    with pytest.raises((ModelError, FolderError)):
        load(str(place / "base"), UNCONDITIONAL)
