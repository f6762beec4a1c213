"""`tunewright papers`: list, filter, search, show."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tunewright import errors
from tunewright.commands import cli
from tunewright.papers import cards


def invoke(*args: str):
    return CliRunner().invoke(cli.app, ["papers", *args])


def slugs(*args: str) -> list[str]:
    done = invoke(*args, "--json")
    assert done.exit_code == 0, done.stderr
    return [c["slug"] for c in json.loads(done.stdout)]


def test_it_lists_all_without_words_and_is_the_same_as_list():
    assert slugs() == slugs("list") == sorted(cards.load())


def test_filters_and_words_go_together():
    merging = slugs("--family", "merge")
    assert merging and all(cards.find(s).family == "merge" for s in merging)
    assert slugs("sparse", "mask", "--family", "merge")[0] in {"model-breadcrumbs", "ties"}
    assert set(slugs("list", "mask", "--modality", "vision", "--kind", "method")) <= set(slugs("--modality", "vision"))
    assert not set(slugs("--state", "open")) & set(slugs("--state", "lives"))
    assert len(slugs("--state", "open")) + len(slugs("--state", "lives")) == len(cards.load())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--family", "mrege", "'merge'"), ("--state", "hold", "'holds'"), ("--kind", "methods", "'method'")],
)
def test_a_filter_that_nothing_has_is_an_error(option, value, says):
    done = invoke(option, value)
    assert done.exit_code == errors.RecipeError.code and says in done.stderr and option in done.stderr


def test_what_was_reconstructed_says_so_wherever_it_is_described(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "summaries" in cards.find("cooldown").reconstructed and not cards.find("hft").reconstructed
    assert "reconstructed" in invoke("show", "cooldown").stdout and "reconstructed" not in invoke("show", "hft").stdout
    for name, said in (("cooldown", True), ("allora", True), ("task-arithmetic", True), ("lora", False)):
        page = CliRunner().invoke(cli.app, ["methods", name]).stdout
        assert ("reconstructed" in page) == said, name
    found = json.loads(CliRunner().invoke(cli.app, ["methods", "allora", "--json"]).stdout)
    assert found["reconstructed"] == {"allora": cards.find("allora").reconstructed}


def test_the_table_has_a_line_a_paper(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = invoke("--family", "merge").stdout.splitlines()
    assert len([line for line in lines if " merge " in line]) == len(slugs("--family", "merge"))
    assert lines[-1].startswith(f"{len(slugs('--family', 'merge'))} cards")
    assert "0 cards" in invoke("xyzzy").stdout


def test_show_says_where_it_lives_and_what_is_like_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = invoke("show", "hft").stdout
    for part in (
        "arXiv:2404.18466",
        "tunewright/methods/parameter_selection/hft.py (choose)",
        "tests/methods/test_first_methods.py",
        "like it",
    ):
        assert part in text
    assert "open: nothing here does it yet" in invoke("show", "consciousness-prior").stdout
    shown = json.loads(invoke("show", "hft", "--json").stdout)
    assert shown["title"] == cards.find("hft").title and len(shown["similar"]) == 5 and shown["states"][0] == "lives"


def test_an_unknown_paper_is_an_error_with_the_nearest():
    done = invoke("show", "loraga")
    assert done.exit_code == errors.RecipeError.code and "lora-ga" in done.stderr


def test_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom tunewright.commands.cli import app\n"
        "try:\n    app(['papers', 'merge', '--family', 'merge'])\nexcept SystemExit as e:\n    assert e.code in (0, "
        "None), e.code\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'yaml', 'jinja2', 'datasets'} & sys.modules.keys()), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "model-soups" in done.stdout
