"""The data card that `check` fills: what is known is there and anew each time, what a person wrote stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import small
from tunewright.commands import cli
from tunewright.planning.check import check_recipe
from tunewright.planning.data_card import BLANK, ITEMS, answers_in


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    small.write_inputs(folder, train=6, test=3)
    rows = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([*rows, rows[0]]))
    small.write_recipe(folder, data__select=[{"random": {"keep": "50%"}}])
    return folder


def invoke(place: Path, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["check", str(place / "r.yaml"), *args])
    return done.exit_code, done.output


def test_what_is_known_is_filled_in_and_the_rest_are_named_blanks(place: Path) -> None:
    code, said = invoke(place, "--card", str(place / "card.md"))
    text = (place / "card.md").read_text(encoding="utf-8")
    assert code == 0 and "yours to write" in said and "protocol, eligibility" in said
    assert "| `train.jsonl` | train | 7 | 7 |" in text and "| `test.jsonl` | eval | 3 | 3 |" in text
    assert "- main: chosen by random" in text and "- main: `lora`; 4 steps" in text
    assert "- 1, duplicate: the same row stands in the training data before" in text
    assert "Measured on: `test.jsonl`." in text and "Measured before and after on: keep." in text
    blank = [i.name for i in ITEMS if i.known is None]
    assert text.count(BLANK) == len(blank) == 16 and f"Still blank: {', '.join(blank)}." in text
    assert str(place) not in text


def test_what_a_person_wrote_stays_and_what_is_known_is_written_anew(place: Path) -> None:
    file = place / "kept.md"
    invoke(place, "--card", str(file))
    text = file.read_text(encoding="utf-8")
    asked = next(i.asks for i in ITEMS if i.name == "search")
    mine = "PubMed, 3 May.\n\n- (cancer OR tumour)\n\n### not an item\n\nand more"
    text = text.replace(f"{asked}\n\n{BLANK}", f"{asked}\n\n{mine}")
    text = text.replace(next(i.asks for i in ITEMS if i.name == "upkeep") + f"\n\n{BLANK}", "Each May.")
    file.write_text(text.replace("4 steps", "9 steps"), encoding="utf-8")
    code, said = invoke(place, "--card", str(file))
    again = file.read_text(encoding="utf-8")
    assert code == 0 and "search" not in said.split("yours to write")[1] and "4 steps" in again
    assert answers_in(again)["search"] == mine and answers_in(again)["upkeep"] == "Each May."
    assert "question" not in answers_in(again)


def test_a_file_that_is_no_card_is_never_written_over(place: Path) -> None:
    (place / "notes.md").write_text("mine")
    code, said = invoke(place, "--card", str(place / "notes.md"))
    assert code != 0 and "is no data card" in said and (place / "notes.md").read_text() == "mine"
    assert "Traceback" not in said


def test_a_card_that_cannot_be_written_names_its_own_flag(place: Path) -> None:
    (place / "shut").write_text("a file, and no folder")
    code, said = invoke(place, "--card", str(place / "shut" / "card.md"))
    assert code != 0 and "--card" in said and "--out" not in said and "Traceback" not in said


def test_bad_rows_are_in_the_card_and_json_names_the_file(place: Path) -> None:
    (place / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}')
    args = ("--set", "data.train=bad.jsonl", "--card", str(place / "bad.md"), "--json")
    code, said = invoke(place, *args)
    assert code != 0 and json.loads(said)["written"] == [str(place / "bad.md")]
    assert "- 1 rows that cannot be used" in (place / "bad.md").read_text(encoding="utf-8")
    assert check_recipe(place / "r.yaml").blanks == []


def test_what_is_measured_on_is_what_a_run_measures_and_a_refused_recipe_has_no_card(place: Path) -> None:
    file = place / "said.md"
    alone = ("--card", str(file), "--set", "data.eval=null")
    halved = ("--set", "data.validation=0.5", "--set", "measurement.split=validation")
    told = {(): "Measured on: none", halved: "Measured on: the validation rows. Val"}
    for more, words in told.items():
        assert invoke(place, *alone, *more)[0] == 0 and words in file.read_text(encoding="utf-8")
    before = file.read_text(encoding="utf-8")
    code, said = invoke(place, "--card", str(file), "--set", "stages.0.methods=[dpo]")
    assert code != 0 and "is not written" in " ".join(said.split()) and file.read_text(encoding="utf-8") == before
