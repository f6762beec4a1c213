"""The board's pages of papers, methods and benchmarks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.board.making import Client, served
from tests.test_cli import invoke
from tunewright.board import library
from tunewright.papers import cards
from tunewright.report.compare_schema import Comparison


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory):
    place: Path = tmp_path_factory.mktemp("empty")
    with served(place) as client:
        yield client


def test_papers_are_those_of_the_command_line(asked: Client):
    found = json.loads(invoke("papers", "forget", "less", "--json").stdout)
    page = asked.ask("/papers?q=forget+less").text
    assert f"{len(found)} papers" in page
    shown = [part.split('"')[0] for part in page.split('<a href="/papers/')[1:]]
    assert shown == [c["slug"] for c in found][: library.PAGE]
    assert "no paper has the family" in asked.ask("/papers?family=nothing").text
    assert asked.ask("/papers/nothing").status == 404


def test_papers_are_filtered_by_the_base_that_they_were_judged_on(asked: Client):
    page = asked.ask("/papers?base=vision+models").text
    slugs = {part.split('"')[0] for part in page.split('<a href="/papers/')[1:]}
    on_vision = {
        c.slug for c in cards.load().values() for v in c.verdicts if v.task == "digits" and v.scale in ("nano", "real")
    }
    assert slugs == on_vision and len(slugs) > 5
    assert "nano-vit" in page and "0 papers" in asked.ask("/papers?base=nothing").text


def test_methods_are_those_of_the_catalogue(asked: Client):
    page = asked.ask("/methods").text
    assert "What is added to the frozen model?" in page and 'href="/methods/lora"' in page
    assert asked.ask("/methods?q=low+rank").text.count('href="/methods/') < page.count('href="/methods/')
    one = asked.ask("/methods/lora").text
    assert "use_rslora" in one and "/papers/lora" in one


def test_benchmarks_are_the_repositorys_and_html_in_it_stays_text():
    assert "Supervised fine-tuning" in library.benchmarks()
    made = library._html(
        "# A\n\n<script>x</script> [b](../docs/a.md) [c](javascript:x)\n\n| a | b |\n| - | -: |\n| 1 | 2 |"
    )
    assert "<script>" not in made and "javascript:x" not in made.replace("[c](javascript:x)", "")
    assert "blob/main/docs/a.md" in made and " style=" not in made and "<table>" in made


def test_comparisons_are_listed_with_what_they_found_and_their_pages(tmp_path: Path):
    made = Comparison(
        name="two <b>methods</b>",
        model="nano",
        task="text-generation",
        budget={"tokens": 8000},
        budget_words="tokens",
        seeds=[0, 1],
        tuned=False,
        arms=[],
        finished=datetime(2026, 11, 29, tzinfo=UTC),
    )
    page = (Path(__file__).parents[2] / "docs" / "compare-nano.html").read_text(encoding="utf-8")
    for name in ("compare-a", "deeper/compare-b", "broken", "no page"):
        (tmp_path / name).mkdir(parents=True)
        made.save(tmp_path / name)
        (tmp_path / name / "compare.html").write_text(page, encoding="utf-8")
    (tmp_path / "broken" / "compare.json").write_text("{")
    (tmp_path / "no page" / "compare.html").unlink()
    with served(tmp_path) as client:
        listed = client.ask("/compare").text
        assert listed.count("No method finished a run.") == 3 and "/comparison/no%20page" not in listed
        assert "compare.json" in listed.split("<bdi>broken</bdi>")[1].split("</li>")[0], "why it cannot be read"
        shown = client.ask("/comparison/deeper/compare-b")
        assert shown.status == 200 and shown.headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")
        assert client.ask("/comparison/no%20page").status == client.ask("/comparison/none").status == 404
