"""Verbs that read finished runs, on tasks that write no text: the run's own units, and refusals in one message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.errors import MethodError
from tunewright.finished.chat import chat
from tunewright.paired import shown
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.report.schema import Report
from tunewright.runs.run import run
from tunewright.serve.opening import open_server
from tunewright.shipping.comparing import compare
from tunewright.shipping.formats import Options, ship

NUMBERS, CLASSES, SERIES = "tabular-regression", "tabular-classification", "time-series-forecasting"
POLICIES, DETECTION, DRAWING = "reinforcement-learning", "object-detection", "unconditional-image-generation"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A run of two steps of each task, made when it is first asked for."""
    cases: dict[str, TaskCase] = {}

    class Runs(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            cases[name] = case = TaskCase(name, example_of(name))
            self[name] = case.folder / "out"
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("TUNEWRIGHT_CACHE", str(case.folder / "cache"))
                run(case.recipe(budget__steps=2), self[name], quiet=True)
            return self[name]

    yield Runs()


@pytest.mark.parametrize(
    ("name", "unit", "drift"),
    [
        (NUMBERS, "units of the target", "1 \u2212 CKA from the first"),
        (SERIES, "", "change of forecasts from the first, standard deviations"),
        (POLICIES, "fraction", "KL from the first, nats/action"),
        (DRAWING, "squared error per element", "change of predictions from the first, squared error/element"),
        (DETECTION, "fraction", "KL from the first, nats/proposal"),
    ],
)
def test_a_pair_is_measured_in_the_runs_own_units(name: str, unit: str, drift: str, ran: dict[str, Path]) -> None:
    report = Report.load(ran[name])
    pair = measure(Request([str(ran[name])], [str(ran[name])]))
    assert report.target is not None and pair.target is not None
    assert (pair.target.metric, pair.target.unit) == (report.target.metric, report.target.unit)
    assert pair.target.unit == unit
    line = next(line for line in shown.text(pair, width=200).splitlines() if line.startswith("drift: "))
    assert line.startswith(f"drift: {drift}  ")


@pytest.mark.parametrize("name", [POLICIES, SERIES, DETECTION])
def test_a_model_that_reads_no_tokens_is_no_graph_of_them(name: str, ran: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(MethodError, match=r"reads token ids, and a \w+ reads none") as caught:
        ship(ran[name], "onnx", tmp_path / "onnx", Options())
    assert "leave --to out" in caught.value.remedy and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_graph_of_a_table_is_told_in_classes_and_keeps_how_the_table_is_read(
    ran: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    made = ship(ran[CLASSES], "onnx", tmp_path / "onnx", Options())
    assert "table.json" in made.files and "nats/row, the same likeliest class" in made.page()
    assert "token ids" not in made.page() and "no cache" not in made.page()


def test_numbers_have_no_likelihoods() -> None:
    import torch

    one = torch.tensor([[1.0], [2.0], [4.0]])
    assert str(compare(one, one)) == "what they say differs by 0 (largest 0) of its standard deviation, at 3 places"
    several = torch.eye(3)
    assert "nats/row, the same likeliest class at 100 % of 3" in str(compare(several, several))
    assert "nats/token, the same likeliest token at 100 % of 3" in str(compare(several[None], several[None]))


@pytest.mark.parametrize("to", ["gguf", "ollama", "mlx"])
def test_forms_of_language_models_name_the_run_that_is_none(to: str, ran: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="holds language models that write text") as caught:
        ship(ran[CLASSES], to, tmp_path / to, Options())
    assert caught.value.where == str(ran[CLASSES])


@pytest.mark.parametrize("name", [NUMBERS, DETECTION])
def test_what_neither_writes_nor_embeds_text_says_what_to_do_instead(name: str, ran: dict[str, Path]) -> None:
    for verb in (chat, lambda folder: open_server(str(folder))):
        with pytest.raises(MethodError, match=f"a model of {name} ") as caught:
            verb(ran[name])
        assert f"tunewright export {ran[name]}" in caught.value.remedy
