"""Whole runs that change their model's shape: report, dial and drift, resumed, exported, carried on, and what is
refused.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import classifying, small, tiny
from tunewright.errors import Interrupted, MethodError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.models.agreement import differing
from tunewright.planning.estimate import estimate
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import resume, run
from tunewright.runs.stages import TrainingCallback

GROWN = {"bert2bert": {"width": 2, "depth": 1.5}}
STAGE = {"name": "main", "methods": [GROWN, {"lora": {"rank": 2}}], "budget": {"steps": 4}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reshaped")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


def recipe(folder, name, *stages, **changes):
    return small.write_recipe(folder, name, stages=list(stages), **changes)


@pytest.fixture(scope="module")
def grown(inputs):
    return run(recipe(inputs, "grown", STAGE), inputs / "grown", quiet=True)


def test_the_report_speaks_of_base_and_grown_model_truly(grown, inputs):
    report = grown.report
    (told,) = [n for n in report.notes if "shape was changed" in n]
    assert "widened to 64 channels" in told and "does not say what the base says" in told
    assert report.model.parameters == sum(p.numel() for p in tiny.llama().parameters())
    whole = sum(p.numel() for p in open_run(grown.folder).adapted.base_parameters().values())
    assert report.trained.parameters == whole > report.model.parameters
    points = {p.strength: p for p in report.trade}
    assert set(points) == {0.5, 1.0} and points[0.5].drift.value > 1e-3
    made = json.loads((grown.folder / "delta.json").read_text())
    assert [s["form"] for s in made["surgery"]] == ["widened", "blocks"] and not (grown.folder / "adapter").exists()


def test_the_exported_folder_is_plain_transformers_in_the_new_shape(grown):
    opened = open_run(grown.folder)
    given = check_inputs(opened)
    expected = logits_of(opened.adapted.model, given)
    with opened.adapted.base() as base:
        assert not differing(dict(base.state_dict()), dict(tiny.llama().state_dict()))
    made = export(grown.folder)
    config = AutoConfig.from_pretrained(made.folder)
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (64, 3, 128)
    loaded = AutoModelForCausalLM.from_pretrained(made.folder).eval()
    assert torch.allclose(logits_of(loaded, given), expected, atol=1e-4) and made.reloaded < 1e-4


def test_another_run_starts_from_it_and_grows_on(grown, inputs):
    second = {"name": "on", "start": "grown", "carry": "fold", "methods": ["full"], "budget": {"steps": 2}}
    first = run(recipe(inputs, "on", second), inputs / "on", quiet=True)
    assert open_run(first.folder).adapted.model.config.hidden_size == 64
    more = {**second, "methods": [{"adept": {"share": 0.3}}]}
    last = open_run(run(recipe(inputs, "more", more), inputs / "more", quiet=True).folder).adapted
    assert [o.surgery.form for o in last.operated] == ["widened", "blocks", "blocks"]
    assert last.model.config.num_hidden_layers == 4
    last.forget_changes()
    assert not differing(dict(last.model.state_dict()), dict(tiny.llama().state_dict()))


def test_deltas_that_would_be_lost_are_refused(grown, inputs):
    stage = {"name": "on", "start": "grown", "carry": "training", "methods": [GROWN], "budget": {"steps": 2}}
    with pytest.raises(MethodError, match="'bert2bert', carry: the model carries deltas(.|\n)*carry: fold"):
        run(recipe(inputs, "lost", stage), inputs / "lost", quiet=True)


@pytest.mark.parametrize("method", [GROWN, {"adept": {"share": 0.5, "every": 2}}], ids=["bert2bert", "adept"])
def test_stopped_and_resumed_it_ends_in_the_same_bytes(inputs, monkeypatch, method):
    (name,) = method
    first = {"name": "first", "methods": ["full"], "budget": {"steps": 2}}
    second = {"name": "second", "start": "stages.first", "methods": [method], "budget": {"steps": 5}}
    file = recipe(inputs, f"r-{name}", first, second, train__save_steps=2)
    whole = run(file, inputs / f"whole-{name}", quiet=True)
    seen = TrainingCallback.__call__

    def stop(self, loop, record):
        seen(self, loop, record)
        if self.stage == "second" and record["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCallback, "__call__", stop)
    with pytest.raises(Interrupted):
        run(file, inputs / f"stopped-{name}", quiet=True)
    monkeypatch.undo()
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(inputs / "cache"))
    again = resume(inputs / f"stopped-{name}", quiet=True)
    a, b = (sorted((d.folder / "stages" / "second").iterdir()) for d in (whole, again))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b] and len(a) > 2
    assert again.report.drift == whole.report.drift
    resume(inputs / f"stopped-{name}", quiet=True, verify=True)  # raises where a bit differs


def test_a_wider_classifier_s_drift_is_the_alignment_of_its_features(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    classifying.write_inputs(tmp_path, head=3)
    body = classifying.recipe()
    body["stages"] = [{"name": "main", "methods": [{"bert2bert": {"knowledge": "fpi"}}], "budget": {"steps": 2}}]
    made = run(small.write_recipe(tmp_path, "c", **body), tmp_path / "c", quiet=True)
    assert made.report.drift.measure == "1-cka" and 0 <= made.report.drift.value.value < 0.5


def test_a_merge_with_models_of_the_base_s_shape_is_refused(grown, inputs):
    file = recipe(inputs, "merged", {**STAGE, "methods": [GROWN]}, after=[{"linear": {"of": ["grown"]}}])
    with pytest.raises(MethodError, match="merges with models of the base's own shape"):
        run(file, inputs / "merged", quiet=True)


def test_an_estimate_leaves_the_base_in_its_shape(inputs):
    session = assemble(Recipe.load(recipe(inputs, "plan", STAGE)), lambda text: None)
    before = {n: t.clone() for n, t in session.adapted.model.state_dict().items()}
    made = estimate(session)
    assert made.stages[0].result.steps == 4 and not session.adapted.operated
    assert not differing(dict(session.adapted.model.state_dict()), before)


def test_a_factored_model_is_taught_tuned_and_exported_as_its_product(inputs):
    taught = {"name": "taught", "methods": ["pela"], "budget": {"steps": 3}}
    tuned = {"name": "tuned", "start": "stages.taught", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 2}}
    made = run(recipe(inputs, "pela", taught, tuned), inputs / "pela", quiet=True)
    opened = open_run(made.folder)
    expected = logits_of(opened.adapted.model, check_inputs(opened))
    exported = export(made.folder)
    assert any("multiplied out" in n and "14 linear layers" in n for n in exported.notes)
    loaded = AutoModelForCausalLM.from_pretrained(exported.folder).eval()
    assert torch.allclose(logits_of(loaded, check_inputs(open_run(made.folder))), expected, atol=1e-3)
    assert sum(p.numel() for p in opened.adapted.model.parameters()) < made.report.model.parameters
