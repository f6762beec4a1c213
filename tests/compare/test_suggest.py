"""What `suggest` says of a method is what a run of it does; refusals, memory and claims change what it proposes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import tunewright
from tests import small
from tunewright import catalogue
from tunewright.commands.choosing_page import choosing_page
from tunewright.compare import evidence, suggest_page
from tunewright.compare.suggested import Candidate, Evidence
from tunewright.compare.suggesting import ROOMS, Suggestion, _few, suggest
from tunewright.errors import RecipeError
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.weights.write import size_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("suggest")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield small.write_recipe(folder)


@pytest.fixture(scope="module")
def made(recipe: Path) -> Suggestion:
    return suggest(recipe)


def test_every_method_of_the_rooms_is_told_once(made: Suggestion) -> None:
    names = [c.name for c in made.candidates] + [r.name for r in made.refused]
    assert sorted(names) == sorted(n for n, e in catalogue.entries().items() if e.room in ROOMS)
    counted = [c.trains for c in made.candidates if c.trains is not None]
    assert counted == sorted(counted) and len(counted) > 20


@pytest.mark.parametrize("name", ["lora", "full", "ssf", "prompt-tuning", "hft", "s2ft"])
def test_numbers_are_those_that_a_plan_counts(name: str, recipe: Path, made: Suggestion) -> None:
    found = next(c for c in made.candidates if c.name == name)
    planned = plan(Recipe.load(recipe, [f"stages.0.methods=[{name}]"]), quiet=True)
    assert found.trains == planned.stages[0].trainable and found.state == 12 * planned.stages[0].trainable
    assert made.rows == planned.stages[0].rows and made.parameters == planned.model["parameters"]


def test_what_hangs_on_weights_is_not_counted_and_what_is_refused_says_why(made: Suggestion) -> None:
    uncounted = {c.name for c in made.candidates if c.trains is None}
    assert {"eva", "lora-ga", "spt"} <= uncounted and "lora" not in uncounted
    refused = {r.name: r.why for r in made.refused}
    assert (
        "corda" in uncounted
        and "works beside a method" in refused["ist"]
        and refused["pvp"].startswith("'pvp' needs 'upstream'")
    )


def test_the_recipes_own_methods_do_not_matter(recipe: Path, made: Suggestion) -> None:
    other = suggest(recipe, sets=["stages.0.methods=[full]"])
    assert other.candidates == made.candidates and other.compare == made.compare


def test_memory_that_is_small_leaves_full_out(recipe: Path, made: Suggestion) -> None:
    assert {"lora", "full"} <= set(made.compare) and len(made.compare) <= 6
    tight = suggest(recipe, memory=6 * made.parameters)
    by_name = {c.name: c for c in tight.candidates}
    assert not by_name["full"].fits and by_name["ln-tuning"].fits and "full" not in tight.compare
    assert "does not fit into memory" in page(tight)


def candidate(
    name: str, trains: int | None, *claims: tuple[str, str, str], fits: bool = True, folds: bool = True
) -> Candidate:
    told = [Evidence(n, scale, verdict, "it does") for n, scale, verdict in claims]
    return Candidate(name, "", trains, trains, fits, folds, True, told)


def test_the_few_follow_the_stated_rule() -> None:
    there = [
        candidate("beside", 1, folds=False),
        candidate("broken", 1, ("broken", "nano", "fails")),
        candidate("least", 1),
        candidate("small", 2, ("small", "nano", "holds")),
        candidate("part", 3, ("part--count", "real", "holds")),
        candidate("lora", 4),
        candidate("real", 5, ("real", "real", "holds")),
        candidate("failed", 6, ("failed", "real", "fails")),
        candidate("wide", 7, ("wide", "real", "holds"), fits=False),
        candidate("more", 8, ("more", "nano", "holds")),
        candidate("last", 9, ("last", "nano", "holds")),
        candidate("full", 10),
    ]
    assert _few(there) == ["lora", "full", "real", "small", "more", "least"]
    assert _few([candidate("uncounted", None)]) == []


def test_evidence_is_that_of_the_methods_own_claims() -> None:
    told = evidence.of_method("unipt", ("unipt",))
    assert ("unipt", "real", "holds") in [(e.name, e.scale, e.verdict) for e in told] and told[0].scale == "real"
    assert evidence.of_method("lora", ("unipt",)) == [], "it is the baseline there"


def page(found: Suggestion, width: int = 100) -> str:
    out = io.StringIO()
    suggest_page.show(found, "my.yaml", Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_the_page_and_the_data_say_the_same(made: Suggestion) -> None:
    text = page(made)
    assert all(c.name in text for c in made.candidates) and all(r.name in text for r in made.refused)
    assert f"tunewright compare my.yaml --methods {','.join(made.compare)} --seeds 5 --tune --race" in text
    assert max(map(len, page(made, 80).splitlines()[:-1])) <= 80
    assert json.loads(json.dumps(made.to_json()))["compare"] == made.compare
    assert str(made).splitlines()[0].startswith("base") or made.model in str(made)
    assert isinstance(tunewright.suggest, type(suggest))


def test_a_recipe_that_names_no_method_yet_is_taken_and_one_of_several_stages_says_so(
    recipe: Path, made: Suggestion
) -> None:
    tree = yaml.safe_load(recipe.read_text())
    methods = tree["stages"][0].pop("methods")
    alone = {k: v for k, v in tree.items() if k != "stages"} | {"budget": tree["stages"][0]["budget"]}
    none = recipe.with_name("none.yaml")
    none.write_text(yaml.safe_dump(alone))
    assert suggest(none).candidates == made.candidates
    stage = {"methods": methods, "budget": {"steps": 2}}
    several = recipe.with_name("several.yaml")
    several.write_text(yaml.safe_dump(tree | {"stages": [{"name": "a", **stage}, {"name": "b", **stage}]}))
    found = suggest(several)
    assert found.stages == 2 and found.command() is None and "first of 2 stages" in page(found)
    assert made.stages == 1 and made.command("x.yaml").startswith("tunewright compare x.yaml --methods lora,full")


def test_a_size_that_is_none_names_its_flag() -> None:
    with pytest.raises(RecipeError, match=r"--memory: '8XB' is no size"):
        size_of("8XB", "--memory")


def test_the_page_on_choosing_has_a_line_for_every_method() -> None:
    text = choosing_page()
    assert all(f"| [`{n}`](methods.md) |" in text for n, e in catalogue.entries().items() if e.room in ROOMS)
    assert "| [`unipt`](methods.md) | additive | no | yes |" in text and "holds (real)" in text


def test_a_model_whose_frozen_parts_are_not_loaded_is_no_obstacle() -> None:
    """A next-scale model of shapes alone has no autoencoder, and methods that probe it at each drawing cannot."""
    from tunewright.conformance import task_next_scale
    from tunewright.conformance.task_case import TaskCase

    name = "unconditional-image-generation"
    case = TaskCase(name, task_next_scale.example_of(name))
    found = suggest(case.folder / "recipe.yaml")
    counted = {c.name: c.trains for c in found.candidates}
    assert counted["greentrainer"] is None and counted["lora"] and "reinit-top" not in counted
