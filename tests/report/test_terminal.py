from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tests.report.example import make_example, make_rows
from tunewright.report import terminal, words
from tunewright.report.schema import Answer, Measured, Report, RunInfo


def test_the_summary_holds_what_a_newcomer_asks() -> None:
    text = terminal.text(make_example(), "runs/quickstart")
    for said in (
        "1.7 %  [0.6, 4.2]",
        "75.8 %  [70.5, 81.1]",
        "+74.1  [68.6, 79.6]",
        "base shown 3 examples",
        "choosing the likeliest label",
        "loss on general, nats/token",
        "drift: KL from base",
        "0.25  ",
        "1 (tuned)",
        "4 min 12 s",
        "19.6 MB",
        "this run",
        "runs/quickstart/report.html",
    ):
        assert said in text
    assert text.count("reference  ") == 3


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_number_is_cut_whatever_the_width(width: int) -> None:
    kept = [
        Measured(
            name="a rather long name of what is kept", metric="loss", direction="lower", unit="nats per token", n=3
        )
    ]
    crowded = [make_example(kept=[*make_example().kept, *kept])] if width >= 80 else []
    for report in [make_example(), *crowded]:
        text = terminal.text(report, width=width)
        assert max(map(len, text.splitlines())) <= width
        tables = text.split("Answers side by side")[0]
        assert "…" not in tables
        for number in ("[70.5, 81.1]", "[68.6, 79.6]", "[3.57, 3.81]", "[0.021, 0.10]", "17.9 %"):
            assert number in tables


def test_values_stand_under_each_other() -> None:
    lines = terminal.text(make_example()).splitlines()
    table = [line for line in lines if line.startswith(("exact match ", "  choosing", "loss on general"))]
    assert len({line.index("[") for line in table}) == 1


def test_an_empty_report_prints_its_path_only() -> None:
    assert terminal.text(Report(run=RunInfo(name="x")), "runs/x") == "Report: runs/x/report.html\n"


def test_an_interrupted_run_says_so_first() -> None:
    report = make_example(run=RunInfo(name="x", status="failed", stopped_in="train"), trade=[])
    text = terminal.text(report)
    assert text.startswith("This run failed in the phase 'train'") and "dialled" not in text


def test_what_is_not_a_terminal_gets_plain_text() -> None:
    out = io.StringIO()
    terminal.show(make_example(), "r", Console(file=out, width=100))
    assert out.getvalue() == terminal.text(make_example(), "r")


def test_a_terminal_gets_colours() -> None:
    out = io.StringIO()
    terminal.show(
        make_example(), "r", Console(file=out, width=120, force_terminal=True, color_system="standard", _environ={})
    )
    assert "\x1b[32m+74.1" in out.getvalue() and "\x1b[31m+0.58" in out.getvalue()


def test_an_output_without_unicode_still_prints() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    terminal.show(make_example(notes=["naïve"]), "r", Console(file=out, width=100))
    out.flush()
    assert b"note: na?ve" in raw.getvalue() and b"-----" in raw.getvalue()


def test_models_cannot_steer_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jhi\u202e\x9b31m [bold red]x[/]"
    answers = [Answer(id="1", prompt=evil, reference=evil, base=evil, tuned=evil)]
    text = terminal.text(make_example(answers=answers, notes=[evil]))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "[bold red]x[/]" in text


def test_the_three_answers_show_different_fates() -> None:
    answers = [Answer.of(r) for r in make_rows(40)]
    picked = terminal.pick(answers)
    assert len(picked) == 3 and len({fate for _, fate in picked}) == 3
    assert [a.id for a, _ in terminal.pick(answers[:2])] == [a.id for a in answers[:2]]


def test_a_unit_stays_with_its_number() -> None:
    for width in range(60, 121):
        for line in terminal.text(make_example(), width=width).splitlines():
            assert not line.lstrip().startswith(("% ", "s,", "s)", "min ", "MB ")) and len(line) <= width


def test_parameters_are_counted_of_the_shape_that_was_trained() -> None:
    report = make_example()
    assert report.trained is not None and report.model is not None and report.model.parameters
    whole = words.count(report.model.parameters)
    assert f"of {whole} parameters trained" in " ".join(terminal.text(report, "r").split())
    report.trained.parameters = 2 * report.model.parameters
    new = words.count(report.trained.parameters)
    assert f"of {new} parameters trained in the new shape ({whole} in the base)" in " ".join(
        terminal.text(report, "r").split()
    )
