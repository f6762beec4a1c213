"""The recipes that begin with a fresh model, in the repository's own words, on a few rows and a tiny shape."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from tests import small
from tests.runs.test_fresh import LLAMA
from tunewright.recipe import Recipe
from tunewright.runs import run as run_module


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["iterated-random-computation.yaml", "specialized-pretraining.yaml"])
def test_the_recipes_of_pretraining_run_as_they_are_written(tmp_path, name):
    shutil.copy(Path(__file__).parents[2] / "recipes" / name, tmp_path / name)
    rng = random.Random(0)
    for part in ("text", "text-test", "general", "general-test", "domain", "domain-test"):
        lines = [" ".join(rng.choices(small.WORDS, k=40)) for _ in range(20)]
        (tmp_path / f"{part}.txt").write_text("\n\n".join(lines))
    tiny_shape = json.dumps({**LLAMA, "tie_word_embeddings": True})
    sets = [f"model.config={tiny_shape}", "train.threads=1", "measurement.drift_sequences=2", "measurement.rows=4"]
    vocabulary = "" if "specialized" in name else "model.vocab_size=259"
    sets += [f"stages.{i}.budget={{steps: 2}}" for i in (0, 1)] + [vocabulary or "model.vocab_size=300"]
    if "iterated" in name:
        few = {"rows": 8, "length": 20, "buffer": 8, "batch": 4, "rounds": 2, "width": 8, "heads": 2, "depth": 1}
        sets.append(f"stages.0.data.train.parameters={json.dumps(few)}")
    whole = Recipe.load(tmp_path / name)
    assert [s.start for s in whole.stages] == ["base", f"stages.{whole.stages[0].name}"] and whole.model.fresh
    run = run_module.run(Recipe.load(tmp_path / name, sets), tmp_path / "run", quiet=True)
    assert len(run.report.stages) == 2
    if "specialized" in name:
        shares = {s.path: s.weight for s in run.report.data.sources if s.role == "train"}
        assert shares == {"general": 0.98, "domain": 0.02, "domain.txt": 1.0}
