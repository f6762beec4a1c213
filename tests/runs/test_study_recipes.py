"""Recipes of studies that compare ways to spare parameters, on tiny models: petl-ast.yaml, sfprompt.yaml and
adapters-pet-for-content-analysis.yaml.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import classifying, small
from tests.tasks import hearing
from tests.tasks.test_audio_classification import made
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run

FOLDER = Path(__file__).parents[2] / "recipes" / "papers"
TINY = ["model=./base", "train.threads=1", "train.precision=float32", "measurement.strengths=[1.0]"]
TINY += ["measurement.drift_sequences=2"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(place: Path, name: str, *sets: str) -> Recipe:
    shutil.copy(FOLDER / name, place / "r.yaml")
    recipe = Recipe.load(place / "r.yaml", [*TINY, *sets])
    assert check_recipe(recipe).ok
    return recipe


def test_adapters_in_a_spectrogram_transformer(place):
    hearing.rows(place, "label")
    model, extractor = made("ast")
    model.save_pretrained(place / "base")
    extractor.save_pretrained(place / "base")
    recipe = loaded(place, "petl-ast.yaml", "stages.0.budget={steps: 2}")
    assert [u.name for u in recipe.stages[0].methods] == ["bottleneck-adapters"]
    report = run(recipe, place / "out", quiet=True).report
    assert report.run.status == "finished" and report.target.after is not None
    # two blocks, two adapters each of width 1; the base's own head stays
    assert report.cost.trainable_parameters == 4 * (2 * 32 + 1 + 32)


def test_clients_of_a_split_model(place):
    classifying.write_inputs(place, classifying.PICTURES)
    sets = ("stages.0.budget={steps: 2}", "train.batch_tokens=12")
    method = "stages.0.methods=[{sfprompt: {clients: 3, client_blocks: [1, 0], keep: 0.5}}]"
    recipe = loaded(place, "sfprompt.yaml", *sets, method)
    report = run(recipe, place / "out", quiet=True).report
    assert report.run.status == "finished"
    values = report.probes["sfprompt"].values
    assert values["rounds"] == 2 and values["bytes"] > values["bytes of states"] > 0
    shutil.copy(FOLDER / "sfprompt.yaml", place / "whole.yaml")
    written = Recipe.load(place / "whole.yaml").stages[0].methods[0]
    assert written.name == "sfprompt" and written.params["alpha"] == 0.5


def test_a_near_domain_and_then_few_rows_behind_a_pattern(place):
    small.write_inputs(place)
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    for i, part in enumerate(("near", "few", "test")):
        told = [{"text": r["prompt"], "word": r["completion"]} for r in rows[10 * i : 10 * i + 10]]
        (place / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in told))
    sets = ("stages.0.budget={steps: 2}", "stages.1.budget={steps: 2}", "measurement.max_new_tokens=4")
    recipe = loaded(place, "adapters-pet-for-content-analysis.yaml", *sets)
    assert [(s.name, s.carry) for s in recipe.stages] == [("near", "fold"), ("few", "training")]
    report = run(recipe, place / "out", quiet=True).report
    assert report.run.status == "finished" and report.target.after is not None
    kept = [json.loads(line) for line in (place / "out" / "rows.jsonl").read_text().splitlines()]
    assert kept and all(r["prompt"].endswith("\nThis is") for r in kept), "the space before a word is the word's"
