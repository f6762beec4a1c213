"""By what methods spare parameters: two rooms say it, others where they add weights; lists show and sort by it."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from tunewright import catalogue
from tunewright.catalogue import listing
from tunewright.catalogue.folders import Entry
from tunewright.commands.choosing_page import choosing_page
from tunewright.commands.cli import app
from tunewright.commands.methods_page import methods_page
from tunewright.compare.suggesting import ROOMS
from tunewright.contract.category import CATEGORIES
from tunewright.contract.class_check import check_class
from tunewright.contract.method import Method
from tunewright.errors import MethodError, RecipeError

SORTED = [e for e in catalogue.entries().values() if e.room in ROOMS]


@pytest.mark.parametrize("entry", SORTED, ids=lambda e: e.name)
def test_every_method_that_adapts_or_chooses_says_it_in_its_own_file(entry: Entry):
    cls = catalogue.load_method(entry.name)
    assert entry.category() in CATEGORIES, f"write category: ClassVar[str] into {entry.file}"
    assert "category" in vars(cls) and cls.category == entry.category()


def test_categories_are_those_that_a_file_may_name_and_each_has_some():
    assert {e.category() for e in SORTED} == set(CATEGORIES)


@pytest.mark.parametrize("entry", [e for e in catalogue.entries().values() if e not in SORTED], ids=lambda e: e.name)
def test_what_adds_weights_or_reads_prompts_says_it_in_other_rooms_too(entry: Entry):
    """Prompts of continual learning were in no category, and `--category prompt` did not list them."""
    cls = catalogue.load_method(entry.name)
    prompted = bool({"prompt", "prompts"} & {*entry.name.split("-"), *cls.leaves}) and "wrap" in cls.slots()
    if prompted or "attach" in cls.slots():
        assert entry.category() in CATEGORIES, f"write category: ClassVar[str] into {entry.file}"
    if prompted:
        assert entry.category() == "prompt"
    assert entry.category() is None or {"attach", "wrap"} & set(cls.slots()), "it changes no model's parameters"


@pytest.mark.parametrize(
    ("category", "slot"), [("prompt", "wrap"), ("selective", "choose"), ("reparameterised", "attach")]
)
def test_a_category_is_what_its_methods_do(category: str, slot: str):
    """Most fill the slot by which it is done: no list is made by hand here."""
    fills = [slot in catalogue.load_method(e.name).slots() for e in SORTED if e.category() == category]
    assert sum(fills) > 0.6 * len(fills)


def test_the_list_shows_categories_and_keeps_to_one():
    said = {line.split()[0]: line for line in listing.table().splitlines() if line.startswith("  ")}
    assert "[reparameterised] LoRA:" in said["lora"] and "[" not in said["ties"].split("(")[0]
    one = CliRunner().invoke(app, ["methods", "--category", "prompt"])
    assert one.exit_code == 0 and "prompt-tuning" in one.output and CATEGORIES["prompt"] in one.output
    assert "lora" not in one.output.split() and "[prompt]" not in one.output
    made = CliRunner().invoke(app, ["methods", "--category", "hybrid", "--json"])
    found = {e["name"]: e["category"] for e in json.loads(made.output)}
    assert "mam-adapter" in found and set(found.values()) == {"hybrid"}
    alone = CliRunner().invoke(app, ["methods", "lora"])
    assert f"category:   reparameterised: {CATEGORIES['reparameterised']}" in alone.output


def test_a_class_that_names_another_category_is_refused():
    def select(self: Method) -> None:
        return None

    attributes = {"select": select, "category": "promt", "__module__": __name__, "__doc__": "Keeps nothing."}
    cls = type("Odd", (Method,), {**attributes, "__annotations__": {"category": ClassVar[str]}})
    with pytest.raises(MethodError, match="category is 'promt'") as refused:
        check_class(cls)
    assert "prompt" in str(refused.value)


def test_another_category_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="no category 'promt'") as refused:
        listing.table(category="promt")
    assert "prompt" in str(refused.value)


def test_pages_have_a_column_where_methods_say_it():
    page = methods_page()
    row = next(line for line in page.splitlines() if line.startswith("| [`lora`]"))
    assert "| reparameterised |" in row and all(f"- {n}: {w}" in page for n, w in CATEGORIES.items())
    said = {e.room for e in catalogue.entries().values() if e.category() is not None}
    assert said > set(ROOMS) and page.count("| category |") == len(said)
    row = next(line for line in choosing_page().splitlines() if line.startswith("| [`prefix-tuning`]"))
    assert row.split(" | ")[1] == "prompt"
