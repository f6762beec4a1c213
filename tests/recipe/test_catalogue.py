from __future__ import annotations

import subprocess
import sys

import pytest

from tunewright import catalogue
from tunewright.errors import MethodError, RecipeError
from tunewright.recipe import MethodUse

TOY = '''"""Toy: does nothing (papers: none)."""
from typing import Literal

from pydantic import Field, PositiveInt

from tunewright.contract.method import Method


class Toy(Method):
    """A toy."""

    rank: PositiveInt = Field(8, description="rank of the update")
    share: float = Field(0.5, gt=0, le=1, description="share of the rows")
    mode: Literal["add", "multiply"] = Field("add", description="how it joins")
    label: str = Field("10%", description="a text")

    def after_step(self, step):
        pass
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A third party's package with one method, found through its entry point."""
    (tmp_path / "someones_toy.py").write_text(TOY)
    info = tmp_path / "someones-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tunewright.methods]\ntoy = someones_toy\n")
    monkeypatch.syspath_prepend(tmp_path)
    catalogue.entries.cache_clear()
    yield "toy"
    catalogue.entries.cache_clear()
    sys.modules.pop("someones_toy", None)


def test_a_third_party_method_is_found_built_and_described(toy):
    method = catalogue.build(MethodUse(name=toy, params={"rank": 4, "share": "10%", "label": "10%"}))
    assert (method.rank, method.share, method.label) == (4, 0.1, "10%")
    described = catalogue.describe(toy)
    assert described.keys() == {"name", "room", "summary", "category", "slots", "parameters", "needs", "papers"}
    assert described["slots"] == ["after_step"] and described["room"] == catalogue.THIRD_PARTY
    assert described["parameters"]["share"] == {
        "type": "float",
        "default": 0.5,
        "required": False,
        "range": "> 0, <= 1",
        "description": "share of the rows",
    }


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"rank": 0}, ["toy.rank", "greater than 0, got 0", "> 0", "write {toy: {rank: 8}}"]),
        ({"rnak": 2}, ["no parameter 'rnak'", "did you mean 'rank'"]),
        ({"share": "200%"}, ["toy.share", "<= 1"]),
        ({"mode": "mulitply"}, ["toy.mode", "multiply"]),
        ({"rank": "many", "share": 7}, ["toy.rank", "also toy.share"]),
    ],
)
def test_bad_parameters_say_what_is_allowed(toy, params, says):
    with pytest.raises(RecipeError) as caught:
        catalogue.build(MethodUse(name=toy, params=params), "r.yaml:3")
    text = str(caught.value)
    assert text.startswith("r.yaml:3: ")
    for part in says:
        assert part in text


def test_unknown_names_offer_the_nearest():
    with pytest.raises(RecipeError, match="no method is named 'lroa'") as caught:
        catalogue.find("lroa")
    assert "'lora'" in str(caught.value)


def test_underscores_and_aliases_lead_to_the_same_entry():
    assert catalogue.lookup("half_fine_tuning") == catalogue.lookup("hft") is not None


def test_every_alias_leads_somewhere():
    for old, new in catalogue.aliases().items():
        assert new in catalogue.entries(), f"{old} -> {new}"
        assert old not in catalogue.entries()


def test_two_things_of_one_name_are_refused(toy, monkeypatch):
    from importlib.metadata import EntryPoint

    monkeypatch.setattr(
        catalogue.folders.importlib.metadata, "entry_points", lambda group: [EntryPoint("lora", "elsewhere", group)]
    )
    catalogue.entries.cache_clear()
    with pytest.raises(MethodError, match="'elsewhere' names a method 'lora'") as caught:
        catalogue.entries()
    assert "pip uninstall elsewhere" in str(caught.value)


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from tunewright import catalogue; [e.summary() for e in catalogue.entries().values()]; "
        "catalogue.tasks();"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & sys.modules.keys()), 'lora' in "
        "catalogue.entries())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "[] True"
    )


@pytest.mark.parametrize("name", sorted(catalogue.entries()))
def test_every_file_keeps_the_rules_of_a_method(name):
    described = catalogue.describe(name)
    assert described["slots"] and described["summary"]
    for parameter in described["parameters"].values():
        assert parameter["description"]


def test_items_that_are_wrong_do_not_also_make_their_list_too_short():
    with pytest.raises(RecipeError) as refused:
        catalogue.build(MethodUse(name="cofitune", params={"modules": ["upp"]}))
    assert "'up'" in str(refused.value) and "at least 1" not in str(refused.value)
    with pytest.raises(RecipeError, match="at least 1"):
        catalogue.build(MethodUse(name="cofitune", params={"modules": []}))


def test_a_name_near_none_is_not_answered_with_all_of_them():
    with pytest.raises(RecipeError) as refused:
        catalogue.find("zzyzx-by-night")
    assert "`tunewright methods` lists" in str(refused.value) and "lora" not in str(refused.value)
