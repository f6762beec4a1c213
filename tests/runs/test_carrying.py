"""What a task of a sequence does with the deltas that it starts with, where the recipe leaves it to the methods."""

from __future__ import annotations

import pytest
import yaml

from tests import classifying, small
from tunewright import catalogue
from tunewright.errors import RecipeError
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble, settled
from tunewright.runs.carrying import carried


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carrying")
    classifying.write_inputs(folder, train=24, test=15)
    return folder


def carries(folder, *methods, **tasks):
    """What the stages of a sequence with these methods carry, as a run of it has them."""
    tree = classifying.recipe(methods=list(methods), budget={"steps": 2})
    file = small.write_recipe(folder, tasks={"by": "label", "count": 3, **tasks}, **tree)
    tree = yaml.safe_load(file.read_text())
    del tree["stages"]
    file.write_text(yaml.safe_dump(tree))
    session = assemble(Recipe.load(file), weights=False)
    assert [part.spec.carry for part in session.stages] == [s.carry for s in session.recipe.stages]
    assert session.recipe.sequence.carry == session.recipe.stages[0].carry
    return {s.carry for s in session.recipe.stages}, session.recipe


@pytest.mark.parametrize(
    ("methods", "carry"),
    [(["lora"], "fold"), (["mos"], "frozen"), (["lae", "lora"], "training"), (["ranpac"], "frozen")],
)
def test_a_sequence_carries_on_as_its_methods_ask(inputs, methods, carry):
    found, recipe = carries(inputs, *methods)
    assert found == {carry}
    again, _ = settled(recipe)  # what a run writes down says it, and is left as it is
    assert {s.carry for s in again.stages} == {carry}


def test_a_check_lets_a_sequence_carry_on_as_its_methods_ask_and_says_where_it_says_otherwise(inputs):
    _, recipe = carries(inputs, "ranpac")
    file = inputs / "r.yaml"
    assert not check_recipe(Recipe.load(file)).report.errors
    refused = [str(e) for e in check_recipe(Recipe.load(file, ["tasks.carry=fold"])).report.errors]
    assert len(refused) == 1 and refused[0].startswith("tasks.carry: 'ranpac' of the stage 'task-1' wraps the model")


def test_what_a_recipe_says_goes_before_what_its_methods_ask(inputs):
    assert carries(inputs, "mos", carry="drop")[0] == {"drop"}


def test_methods_that_ask_for_different_things_are_told_apart_at_once(inputs):
    _, recipe = carries(inputs, "lora")
    unsaid = recipe.model_copy(update={"sequence": recipe.sequence.model_copy(update={"carry": None})})
    methods = [[(name, catalogue.load_method(name)()) for name in ("mos", "lae")]] * 3
    with pytest.raises(RecipeError, match="another carry: mos frozen and lae training"):
        carried(unsaid, methods)
