"""The summary of merges, driven whole on a tiny classifier: its cells are what they say, and are made once."""

from __future__ import annotations

import json

import pytest
from transformers import ViTConfig, ViTForImageClassification

from tests.claims.test_merging import Real, lab  # noqa: F401  (a fixture)
from tunewright import catalogue
from tunewright.claims import merging_table as table
from tunewright.trials.tuning import Tuned

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 1,
    "num_labels": 10,
}


NOT_MEASURED = {"arcee-fusion", "karcher", "nearswap", "nuslerp", "passthrough", "ram", "ramplus-tl", "sce"}
"""Merges that came after the table was measured."""


def test_every_merge_of_the_catalogue_is_in_it_with_five_choices_or_none():
    merges = {e.name for e in catalogue.entries().values() if e.room == "weights/merge"}
    assert merges - NOT_MEASURED == set(table.WAYS)
    for name, way in table.WAYS.items():
        cls = catalogue.load_method(name)
        for count in way.models:
            choices = way.choices(count)
            assert len(choices) in (1, 5) and (len(choices) == 5 or way.chosen == "nothing" or name == "model-soups")
            methods = [cls(**c) for c in choices]
            assert len({m.model_dump_json() for m in methods}) == len(choices)
            assert bool(getattr(cls, "learns", False)) == way.learns
        least, most = getattr(cls, "models", (1, None))
        assert all(least <= n and (most is None or n <= most) for n in way.models)


class Engine(Real):
    def tune(self, arms, on_record):
        return {name: Tuned(rate=3e-3, attempts=[]) for name in arms}


@pytest.mark.slow
def test_cells_are_made_once_and_are_what_the_merges_give(lab, tmp_path, monkeypatch):  # noqa: F811
    base = tmp_path / "base28"
    ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(base)
    task = {**lab("ties")[1].task, "model": str(base)}
    monkeypatch.setattr(table, "COUNTS", (2,))
    monkeypatch.setattr(table, "ROWS", 20)
    keep = ("linear", "task-arithmetic", "model-soups", "atlas", "pleas")
    monkeypatch.setattr(table, "WAYS", {n: w for n, w in table.WAYS.items() if n in keep})
    monkeypatch.setattr(table, "CHANGES", {n: f for n, f in table.CHANGES.items() if n in ("turned", "inverted")})
    said: list[str] = []
    engine = Engine(tmp_path / "trials")
    path = tmp_path / "merging.json"
    found = table.run(engine, path, 1, task, say=said.append)
    assert set(found["cells"]) == {f"0/2/{n}" for n in (*keep, table.JOINT)} and len(said) == 6
    again = table.run(engine, path, 1, task, say=said.append)
    assert len(said) == 6 and again == found == json.loads(path.read_text())
    fleet = table.Fleet(table.ClaimRun(table.CARRIER, "nano", task, engine, tmp_path, {"full": 3e-3}), 0)
    base_again = fleet.weigh(fleet.base, 2)
    assert base_again == found["seeds"]["0"]["base"] and base_again["drift"] == pytest.approx(0, abs=1e-6)
    assert fleet.accuracies(fleet.models[1], 2, "eval")[1] == found["seeds"]["0"]["alone"][1]
    cell = found["cells"]["0/2/task-arithmetic"]
    tensors, _ = fleet.merge("task-arithmetic", 2, cell["chosen"])
    assert fleet.accuracies(tensors, 2, "eval") == cell["scores"]
    scores = [
        sum(fleet.accuracies(fleet.merge("task-arithmetic", 2, c)[0], 2, "validation")) / 2
        for c in table.WAYS["task-arithmetic"].choices(2)
    ]
    assert (
        cell["validation"] == max(scores)
        and cell["chosen"] == table.WAYS["task-arithmetic"].choices(2)[scores.index(max(scores))]
    )
