"""The recipe of the continual medical study: pictures with findings in words, set after set, with kept rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_examples import clip, tokenizer
from tunewright.recipe import Recipe
from tunewright.runs.run import run

FILE = Path(__file__).parents[2] / "recipes" / "papers" / "continual-medical-vlm-study.yaml"
SETS = {"chest": ("clear lungs", "fluid"), "skin": ("mole", "rash"), "retina": ("healthy", "swollen")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, findings in SETS.items():
        for part, count in (("train", 4), ("test", 2)):
            for finding in findings:
                (tmp_path / name / part / finding).mkdir(parents=True)
                for i in range(count):
                    picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                    picture.save(tmp_path / name / part / finding / f"{i}.png")
    seeded(clip, 0).save_pretrained(tmp_path / "base")
    tokenizer(end=True).save_pretrained(tmp_path / "base")
    size = {"height": 8, "width": 8}
    CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path / "base")
    shutil.copy(FILE, tmp_path / "r.yaml")
    return tmp_path


def recipe(place: Path, *more: str) -> Recipe:
    sets = ["model=./base", "budget={steps: 2}", "train.threads=1", "train.precision=float32", "train.batch_tokens=64"]
    return Recipe.load(place / "r.yaml", [*sets, "measurement.strengths=[1.0]", *more])


def test_sets_come_one_after_the_other_and_earlier_rows_come_back(place):
    report = run(recipe(place), place / "out", quiet=True).report
    assert report.run.status == "finished" and [s.name for s in report.stages] == list(SETS)
    found = report.sequence
    assert found is not None and found.tasks == list(SETS)
    kept = [p for p in report.probes.values() if p.title == "Rehearsal buffer"]
    assert [{row[0] for row in p.rows} for p in kept][-1] == set(SETS), "rows of every set are kept"


def test_without_rehearsal_the_same_sequence_keeps_no_row(place):
    report = run(recipe(place, "methods=[full]"), place / "plain", quiet=True).report
    assert report.sequence is not None and not report.probes
