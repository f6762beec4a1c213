"""`tunewright measure --probes`: what a run's probes say, of any two models."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import classifying, small, tiny
from tunewright.catalogue import folders
from tunewright.commands.cli import app
from tunewright.errors import MethodError, RecipeError
from tunewright.paired import probing, shown
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.paired.result import Pair
from tunewright.recipe import MethodUse
from tunewright.report.schema import Report
from tunewright.runs.run import run

BOTH = ["intruder-dimensions", "calibration"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probing")
    small.write_inputs(folder)
    lora = [{"lora": {"rank": 4}}]
    file = small.write_recipe(folder, probes=BOTH, stages__0__methods=lora, stages__0__budget={"steps": 12})
    run(file, out=folder / "run", quiet=True)
    return folder


def test_a_probe_says_of_two_models_what_it_says_in_the_run(ran: Path, tmp_path: Path) -> None:
    """The oracle is the run: its base and its result, asked by name."""
    theirs = Report.load(ran / "run").probes
    pair = measure(Request([str(ran / "base")], [str(ran / "run")], probes=BOTH), tmp_path / "out")
    assert list(pair.probes) == BOTH
    for name in BOTH:  # the run folds its change to be measured: the same to rounding
        assert pair.probes[name].values.keys() == theirs[name].values.keys()
        for key, value in theirs[name].values.items():
            assert _number(pair.probes[name].values[key]) == pytest.approx(_number(value), abs=1e-6), key
        assert [r[:3] for r in pair.probes[name].rows] == [r[:3] for r in theirs[name].rows]
    assert pair.calibration is not None  # choices are read to their ends for it
    assert Pair.load(tmp_path / "out").probes == pair.probes
    said = shown.text(pair)
    assert "Intruder dimensions" in said and "base expected calibration error" in said


def _number(value: Any) -> float:
    return float(getattr(value, "value", value))


def test_the_first_sides_weights_are_written_aside_and_taken_away(
    ran: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probing.tempfile, "tempdir", str(tmp_path))
    written: list[Path] = []
    keep = probing.Probing.keep

    def watched(self: probing.Probing, *given: Any) -> None:
        keep(self, *given)
        written.extend(tmp_path.rglob("*.safetensors"))

    monkeypatch.setattr(probing.Probing, "keep", watched)
    sides = [str(ran / "base")], [str(ran / "run")]
    measure(Request(*sides, probes=["calibration"]))
    assert not written  # it reads answers alone
    found = measure(Request(*sides, probes=[MethodUse(name="intruder-dimensions", params={"blocks": 1})]))
    assert written and not list(tmp_path.rglob("*.safetensors"))
    assert found.probes["intruder-dimensions"].values["matrices"] == 7


def test_weights_of_another_shape_are_refused(ran: Path, tmp_path: Path) -> None:
    small.write_inputs(tmp_path, model=tiny.llama(layers=3))
    both = Request(
        [str(ran / "base")],
        [str(tmp_path / "base")],
        data=[str(ran / "test.jsonl")],
        task="text-generation",
        probes=["intruder-dimensions"],
    )
    with pytest.raises(MethodError, match="the two sides' weights are not of one shape"):
        measure(both)


@pytest.mark.parametrize(
    "named, said",
    [
        ("calibratoin", "did you mean 'calibration'"),
        ("lora", "'lora' is no probe: it fills attach"),
        ("calibration,", "a probe without a name"),
    ],
)
def test_a_name_that_is_no_probe_is_refused_before_anything_is_loaded(ran: Path, named: str, said: str) -> None:
    sides = [str(ran / "base"), str(ran / "run")]
    result = CliRunner().invoke(app, ["measure", *sides, "--probes", named])
    assert result.exit_code != 0 and said in result.output


def test_a_probe_takes_two_models(ran: Path) -> None:
    many = Request([str(ran / "base")], [str(ran / "run"), str(ran / "base")], probes=["calibration"])
    with pytest.raises(RecipeError, match="a probe looks at two models"):
        measure(many)


def test_another_packages_probe_is_there_by_its_name(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point of the group of methods, as for everything else that a recipe names."""
    (tmp_path / "answer_counts.py").write_text(
        "from tunewright.contract import Method\n"
        "from tunewright.measure.probe import ProbeResult\n\n\n"
        "class AnswerCounts(Method):\n"
        '    """How many answers there are."""\n\n'
        "    papers = ()\n\n"
        "    def probe(self, base, tuned):\n"
        "        values = {'base': len(base.answers['target']), 'tuned': len(tuned.answers['target'])}\n"
        "        return ProbeResult(title='Counts', description='rows', values=values)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    group = "tunewright.methods"
    point = EntryPoint(name="answer-counts", value="answer_counts:AnswerCounts", group=group)
    monkeypatch.setattr(folders.importlib.metadata, "entry_points", lambda group: [point])
    folders.entries.cache_clear()
    try:
        pair = measure(Request([str(ran / "base")], [str(ran / "run")], probes=["answer-counts"]))
    finally:
        folders.entries.cache_clear()
        sys.modules.pop("answer_counts", None)
    assert pair.probes["answer-counts"].values == {"base": 8, "tuned": 8}


@pytest.mark.slow
def test_a_linear_probe_reads_both_classifiers_features(tmp_path: Path) -> None:
    """Of two runs of one base, and in the run itself; other tasks have no features."""
    classifying.write_inputs(tmp_path, head=3)
    changes = classifying.recipe(probes=["linear-probe"], stages__0__budget={"steps": 6})
    made = run(small.write_recipe(tmp_path, **changes), out=tmp_path / "run", quiet=True).report.probes["linear-probe"]
    asked = Request([str(tmp_path / "base")], [str(tmp_path / "run")], probes=["linear-probe"])
    found = measure(asked).probes["linear-probe"]
    assert found.values["base_accuracy"] == made.values["base_accuracy"] and found.values["classes"] == 3
    assert _number(found.values["tuned_accuracy"]) == pytest.approx(_number(made.values["tuned_accuracy"]), abs=0.07)


def test_a_task_without_features_is_refused(ran: Path) -> None:
    with pytest.raises(MethodError, match="there are no features to read"):
        measure(Request([str(ran / "base")], [str(ran / "run")], probes=["linear-probe"]))
