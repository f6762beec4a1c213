"""The recipes that listen without labels before they learn from some: on tones, by tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tasks.hearing import ctc_folder
from tunewright.conformance.task_sounds import WORDS, clips
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run

FOLDER = Path(__file__).parents[2] / "recipes" / "papers"
FILES = {
    "robust-wav2vec-2-0": ({"source": True, "target-test": True, "target": False, "source-unlabelled": False}, "label"),
    "wav2vec2-to-ainu": ({"few": True, "test": True, "related": True, "recordings": False}, "text"),
}
SMALL = "{mask_length: 3, negatives: 5, codes: 6, code_dim: 8, space: 16, placeholder: O}"


@pytest.mark.parametrize("name", FILES)
def test_each_recipe_runs(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    files, column = FILES[name]
    kind = "Wav2Vec2ForCTC" if column == "text" else "Wav2Vec2ForSequenceClassification"
    ctc_folder(tmp_path / "base", kind)
    clips(tmp_path)
    for k, (file, labelled) in enumerate(files.items()):
        said = [{column: (str.upper if column == "text" else str)(WORDS[i % 2])} if labelled else {} for i in range(12)]
        rows = [{"audio": f"clips/{i}.wav", **said[i]} for i in range(4 * (k % 2), 4 * (k % 2) + 8)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shutil.copy(FOLDER / f"{name}.yaml", tmp_path / "r.yaml")
    sets = ["model=./base", "train.threads=1", "train.precision=float32", "measurement.strengths=[1.0]"]
    sets += ["measurement.drift_sequences=2", *(f"stages.{i}.budget={{steps: 2}}" for i in range(2))]
    recipe = Recipe.load(tmp_path / "r.yaml", sets)
    assert [[u.name for u in s.methods] for s in recipe.stages] == [["full", "wav2vec2"], ["full"]]
    small = Recipe.load(tmp_path / "r.yaml", [*sets, f"stages.0.methods=[full, {{wav2vec2: {SMALL}}}]"])
    assert check_recipe(small).ok
    report = run(small, tmp_path / "out", quiet=True).report
    assert report.run.status == "finished" and report.target is not None and report.target.after is not None
    assert [s.name for s in report.stages] == ["listen", "task"]
