"""The README's recipe is a recipe, and its commands are commands."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from tunewright.commands import cli
from tunewright.recipe import Recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (text,) = [block for language, block in BLOCKS if language == "yaml"]
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    recipe = Recipe.load(file)
    assert [use.name for use in recipe.stages[0].methods] == ["lora", "asft"]


def test_every_verb_is_shown_by_its_right_name() -> None:
    group = typer.main.get_command(cli.app)
    shown = {verb for _, block in BLOCKS for verb in re.findall(r"^tunewright (\w+)", block, re.MULTILINE)}
    verbs = set(group.commands)  # type: ignore[attr-defined]
    assert shown <= verbs, shown - verbs
    assert len(shown) > 10
