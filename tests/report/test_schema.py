from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from tests.report.example import make_example, make_rows
from tunewright.errors import FolderError
from tunewright.report import reference, schema
from tunewright.report.schema import Answer, Probe, Report, RunInfo, StageReport


def test_a_report_comes_back_equal_from_its_file(tmp_path: Path) -> None:
    report = make_example()
    path = report.save(tmp_path)
    assert path == tmp_path / "report.json"
    assert Report.load(path) == report == Report.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_promised_keys_are_at_the_top() -> None:
    keys = json.loads(make_example().dumps())
    assert {
        "version",
        "run",
        "model",
        "task",
        "data",
        "target",
        "kept",
        "drift",
        "trade",
        "cost",
        "trained",
        "stages",
        "probes",
    } <= set(keys)
    assert keys["version"] == 1
    assert keys["target"]["difference"]["unit"] == "row"


def test_only_the_run_must_be_known() -> None:
    report = Report(run=RunInfo(name="bare"))
    assert Report.model_validate_json(report.dumps()) == report
    assert report.target is None and report.kept == [] and report.cost.seconds == {}


@pytest.mark.parametrize(
    "model",
    [
        m
        for m in vars(schema).values()
        if isinstance(m, type) and issubclass(m, BaseModel) and m.__module__ == schema.__name__
    ],
)
def test_every_field_is_described_and_unknown_ones_are_refused(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
    with pytest.raises(ValidationError, match="colour"):
        model.model_validate({"colour": 1})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the file"),
        ('{"version": 2, "run": {"name": "x"}}', "version"),
        ('{"run": {"name": "x", "sped": 1}}', "run.sped"),
        ('{"run": {}}', "run.name"),
    ],
)
def test_a_file_that_is_no_report_is_named_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(FolderError, match=f"not a report of version 1: {said}") as caught:
        Report.load(tmp_path)
    assert str(tmp_path / "report.json") in str(caught.value)


def test_a_file_that_was_cut_off_is_told_as_that_and_not_as_of_another_version(tmp_path: Path) -> None:
    whole = make_example().dumps()
    (tmp_path / "report.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(FolderError, match="the report is not whole: .*EOF"):
        Report.load(tmp_path)


def test_no_file_and_no_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no report here"):
        Report.load(tmp_path)
    with pytest.raises(FolderError, match="cannot write the report"):
        make_example().save(tmp_path / "missing")


def test_what_is_not_finite_becomes_null() -> None:
    report = Report(
        run=RunInfo(name="x"),
        stages=[StageReport(name="main", loss_last=float("nan"))],
        probes={"p": Probe(values={"a": float("inf")})},
    )
    back = Report.model_validate_json(report.dumps())
    assert back.stages[0].loss_last is None and back.probes["p"].values["a"] is None


def test_an_answer_is_made_of_a_line_of_rows() -> None:
    row = make_rows(1)[0]
    assert Answer.of({**row, "prompt": "half \ud83d pair"}).prompt == "half ? pair"
    answer = Answer.of(row)
    assert (answer.id, answer.base_score, answer.reference) == (row["id"], row["base_score"], row["reference"])


def test_a_report_of_earlier_names_is_read_and_answers_by_them() -> None:
    counts = {"mlp": schema.RoleCounts(trained=3, total=5)}
    trained = schema.Trained.model_validate({"rooms": {"mlp": {"trained": 3, "total": 5}}})
    assert trained.roles == trained.rooms == counts and schema.Trained(roles=counts) == trained
    assert StageReport.model_validate({"name": "main", "kept_step": 3}).best_step == 3


def test_the_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "report.md"
    assert page.read_text(encoding="utf-8") == reference.markdown(), (
        "run: python -m tunewright.report.reference > docs/report.md"
    )


def test_the_reference_page_names_every_field() -> None:
    text = reference.markdown()
    for model in (Report, schema.Target, schema.Cost, schema.Strength, schema.Interval):
        section = text.split(f"## {model.__name__}\n")[1].split("\n## ")[0]
        assert all(f"| `{name}` |" in section for name in model.model_fields)
