"""The board's pages of papers, methods and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.board.making import Client, served
from tests.test_cli import invoke
from tunewright.board import library
from tunewright.papers import cards


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
