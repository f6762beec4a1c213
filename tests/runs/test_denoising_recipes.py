"""The recipes that go on with denoising before tasks are learnt: whole, and run by a tiny encoder-decoder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.test_text2text import t5
from tunewright.conformance.task_examples import tokenizer
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run

FOLDER = Path(__file__).parents[2] / "recipes" / "papers"
TEXTS = {"ptt5-v2": "pages", "unified-table-seq2seq-pretraining": "tables", "mbart50": "old"}
WORDS = ("red", "blue", "green", "dog", "fox", "the", "very", "is")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    t5().save_pretrained(tmp_path / "base")
    tokenizer(end=True).save_pretrained(tmp_path / "base")
    rng = random.Random(0)
    texts = [{"text": " ".join(rng.choices(WORDS, k=10)), "lang": ("[ne]", "[en]")[i % 2]} for i in range(12)]
    pairs = [{"prompt": f"{w} dog", "completion": "warm" if w == "red" else "cold", "to": "[de]"} for w in WORDS[:4]]
    parts: dict[str, Any] = {
        "pages": texts,
        "tables": texts,
        "old": texts[:6],
        "new": texts[6:],
        "pairs": pairs,
        "few": pairs,
        "tasks": pairs,
        "test": pairs,
    }
    for part, rows in parts.items():
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def recipe(place: Path, name: str, *more: str) -> Recipe:
    shutil.copy(FOLDER / f"{name}.yaml", place / f"{name}.yaml")
    sets = ["model=./base", "train.threads=1", "train.precision=float32", "measurement.strengths=[1.0]"]
    sets += ["measurement.drift_sequences=2", "measurement.max_new_tokens=4", "stages.1.budget={steps: 1}"]
    return Recipe.load(place / f"{name}.yaml", [*sets, "stages.0.budget={steps: 2}", *more])


@pytest.mark.parametrize("name", TEXTS)
def test_each_recipe_runs(place, name):
    report = run(recipe(place, name), place / "out", quiet=True).report
    assert report.run.status == "finished" and report.target is not None and report.target.after is not None
    first = recipe(place, name).stages[0]
    denoiser = "text-infilling" if name == "mbart50" else "span-corruption"
    assert first.methods[-1].name == denoiser and TEXTS[name] in first.data.train[0].path


@pytest.mark.parametrize("name", TEXTS)
def test_a_check_takes_what_a_run_takes(place, name):
    assert check_recipe(recipe(place, name)).ok


def test_what_ptt5_v2_varies_are_keys_that_its_recipe_takes(place):
    for change in ("stages.0.data.select=[quality-rules]", "stages.0.train.lr_scheduler_type=linear"):
        assert check_recipe(recipe(place, "ptt5-v2", change)).report.problems == []
