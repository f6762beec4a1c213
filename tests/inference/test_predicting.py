"""A predictor under `after:` in a whole run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import small, tiny
from tunewright.errors import MethodError, RecipeError
from tunewright.finished import finished
from tunewright.report.schema import Report
from tunewright.runs import predictors
from tunewright.runs.run import run

EFT = {"emulated-fine-tuning": {}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    small.write_inputs(folder)
    tiny.llama(7, layers=3, hidden=48).save_pretrained(folder / "large")
    tiny.tokenizer().save_pretrained(folder / "large")
    return folder


def ran(inputs: Path, name: str, **changes) -> Report:
    return run(small.write_recipe(inputs, name, **changes), out=inputs / name, quiet=True).report


def figures(report: Report) -> tuple:
    return (report.target.after.value, report.kept[0].after.value, report.drift.value.value)


def test_the_small_base_as_the_large_one_measures_as_the_tuned_model(inputs):
    plain = ran(inputs, "plain")
    emulated = ran(inputs, "emulated", models={"large": "./base"}, after=[EFT])
    assert figures(emulated) == pytest.approx(figures(plain), abs=1e-5)
    assert emulated.drift.value.value > 1e-3, "tuning changed too little for this test"
    answers = [
        [json.loads(line)["tuned"] for line in (inputs / n / "rows.jsonl").read_text().splitlines()]
        for n in ("plain", "emulated")
    ]
    assert answers[0] == answers[1]
    assert [s.kept["keep"].value for s in emulated.trade] == pytest.approx(
        [s.kept["keep"].value for s in plain.trade], abs=1e-5
    )
    assert any("emulated-fine-tuning" in n for n in emulated.notes) and not any("emulated" in n for n in plain.notes)


def test_a_large_base_changes_what_is_measured_and_not_what_is_saved(inputs):
    found = ran(inputs, "large-run", models={"large": "./large"}, after=[{"emulated-fine-tuning": {"beta": 0.0}}])
    again = ran(
        inputs,
        "large-again",
        models={"other": "./large"},
        after=[{"emulated-fine-tuning": {"large": "other", "beta": 1.0}}],
    )
    kept = [s.kept["keep"].value for s in found.trade]
    assert max(kept) == pytest.approx(min(kept), abs=1e-6), (
        "with beta 0 the large base speaks alone, however the small one was tuned"
    )
    assert again.kept[0].after.value != pytest.approx(kept[0], abs=1e-4)
    one, other = (finished.open_run(inputs / n).adapted for n in ("large-run", "large-again"))
    assert one.deltas(), "the adapter is what was saved"
    for a, b in zip(one.delta_parameters().values(), other.delta_parameters().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"after": [EFT]}, "write models: {large:"),
        ({"models": {"large": "./large"}, "after": [EFT, "lines"]}, "'lines' changes weights after a predictor"),
        ({"after": ["lae"]}, "does not go here"),
        ({"task": "fill-mask", "models": {"large": "./large"}, "after": [EFT]}, "does not serve the task fill-mask"),
        ({"stages__0__methods": ["lora", "emulated-fine-tuning"]}, "write after: [emulated-fine-tuning]"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(inputs, changes, says, monkeypatch):
    from tunewright.runs.meter import Meter

    monkeypatch.setattr(Meter, "prepare_base", lambda self: pytest.fail("the base was measured"))
    with pytest.raises((MethodError, RecipeError)) as error:
        run(small.write_recipe(inputs, "refused", **changes), out=inputs / "refused", quiet=True)
    assert says in str(error.value)


def test_a_predictor_that_names_nobody_is_told_what_to_write(inputs, monkeypatch):
    from tunewright.methods.decoding.emulated_fine_tuning import EmulatedFineTuning
    from tunewright.recipe import Recipe

    monkeypatch.setattr(EmulatedFineTuning, "speakers", lambda self: ())
    with pytest.raises(MethodError, match="names no speakers"):
        predictors.check(Recipe.load(small.write_recipe(inputs, "nobody", after=[EFT])))


def test_another_tokenizer_is_refused_by_its_tokens(inputs, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<odd>"])
    tiny.llama(9, vocabulary=321).save_pretrained(tmp_path / "odd")
    tokenizer.save_pretrained(tmp_path / "odd")
    with pytest.raises(MethodError, match="another tokenizer.*<odd>"):
        run(
            small.write_recipe(inputs, "odd", models={"large": str(tmp_path / "odd")}, after=[EFT]),
            out=tmp_path / "out",
            quiet=True,
        )
