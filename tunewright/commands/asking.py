"""Verbs that say what there is: methods, schema and doctor."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from tunewright.commands import completing
from tunewright.commands.options import JsonOption, examples, show


@examples(
    "tunewright methods",
    "tunewright methods lora",
    "tunewright methods lora --json",
    "tunewright methods gradient",
    "tunewright methods --category prompt",
)
def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="one method or slot, in full", autocompletion=completing.methods),
    ] = None,
    slots: Annotated[bool, typer.Option("--slots", help="what a method may fill, a line for each slot")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="lines of code, slots and needs of each file, and the median")
    ] = False,
    category: Annotated[
        str | None,
        typer.Option(
            help="those of one way to spare parameters: selective, additive, prompt, reparameterised, hybrid, whole",
            autocompletion=completing.categories,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what a recipe may name, or describe one of them."""
    from tunewright import catalogue
    from tunewright.catalogue import listing, slot_pages
    from tunewright.contract.slot import SLOTS

    if table:
        from tunewright.catalogue import code_table

        rows = code_table.measured()
        show(rows, as_json, lambda: code_table.page(rows))
    elif name in SLOTS:
        show(slot_pages.described(name), as_json, lambda: slot_pages.text(name))
    elif name is not None and catalogue.lookup(name) is None and (found := listing.added(name)) is not None:
        show(found, as_json, lambda: listing.added_page(found))
    elif name is not None:
        from tunewright.papers import cards

        described = listing.one(name)
        described["reconstructed"] = cards.reconstructed((*described["papers"], described["name"]))
        show(described, as_json, lambda: listing.page(described))
    elif slots:
        show([slot_pages.described(s) for s in SLOTS], as_json, slot_pages.table)
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        show(listing.all_described(category) if as_json else None, as_json, lambda: listing.table(columns, category))


@examples(
    "tunewright schema > recipe.schema.json",
    "tunewright schema run",
    "tunewright schema 'runs list'",
)
def schema(
    verb: Annotated[
        str | None, typer.Argument(metavar="[VERB]", help="of what a verb prints with --json (default: of recipes)")
    ] = None,
) -> None:
    """Print the JSON Schema of recipes, for editors, or of what a verb prints with --json, for scripts."""
    if verb is not None:
        from tunewright.commands import json_types
        from tunewright.errors import RecipeError, did_you_mean

        if verb not in json_types.TYPES:
            own = [f"'{name}'" for name in json_types.TYPES if name.startswith(f"{verb} ")]
            why = f"'{verb}' {json_types.WITHOUT.get(verb, 'has verbs of its own' if own else 'is no verb')}"
            remedy = f"ask for {', '.join(own)}" if own else did_you_mean(verb, json_types.TYPES)
            raise RecipeError(why, where="schema", remedy=remedy)
        show(json_types.schema_of(verb), True)
        return
    from tunewright.recipe.adapters import file_schema

    show(file_schema(), True)


@examples(
    "tunewright doctor",
    "tunewright doctor --json",
)
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has, and what is missing for what."""
    from tunewright.commands.doctor import examine, page

    findings = examine()
    show([f.as_dict() for f in findings], as_json, lambda: page(findings))
