"""A recipe of several adapters over one base: `adapters` lists them, all else is common to them.

Each entry becomes a `Recipe` of its own, as if it had been written alone: what stands at the top, with the entry's own
`methods`, `budget`, and keys of `data` and `train` over it. So every check, message and default is that of one recipe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationError

from tunewright.errors import RecipeError
from tunewright.recipe import yaml_text
from tunewright.recipe.explain import explain
from tunewright.recipe.fields import Spec, Whole
from tunewright.recipe.load import opened, parse
from tunewright.recipe.overrides import override
from tunewright.recipe.recipe import Recipe
from tunewright.recipe.schema import with_adapters
from tunewright.recipe.source import Sources
from tunewright.recipe.stage import LONGEST_NAME, DataOverride, TrainOverride
from tunewright.recipe.train_spec import Budget
from tunewright.recipe.uses import Uses
from tunewright.recipe.yaml_text import Document
from tunewright.recipe.yaml_text import Path as Keys

ADAPTERS = "adapters"
SHARED = ("device", "precision", "threads")
"""Keys of `train` by which the base is computed, once for all adapters."""


def file_schema() -> dict[str, Any]:
    """JSON Schema of a recipe's file: of one run, or of several adapters."""
    return with_adapters(Recipe.json_schema(), AdapterSpec)


def _rows_alone(value: Any) -> Any:
    """`data: fee.jsonl` and `data: [fee.jsonl]` for `data: {train: [fee.jsonl]}`."""
    return {"train": value} if isinstance(value, str | list) else value


class AdapterSpec(Spec):
    """One of several adapters that are trained at once: what differs from the others."""

    compact: ClassVar[bool] = True
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        max_length=LONGEST_NAME,
        description="its folder in the run's, where it is a run of its own",
        examples=["fee"],
    )
    methods: Annotated[Uses, Field(min_length=1)] | None = Field(
        None, description="what is applied, in order; none: the `methods` at the top", examples=[["lora"]]
    )
    data: Annotated[
        DataOverride | None, BeforeValidator(_rows_alone, json_schema_input_type=DataOverride | Sources | str | None)
    ] = Field(None, description="files to train on, or keys of `data` that differ", examples=[["fee.jsonl"]])
    seed: Whole | None = Field(None, ge=0, description="short for train: {seed: 1}", examples=[1])
    train: TrainOverride | None = Field(
        None, description="keys of `train` that differ", examples=[{"learning_rate": 5e-4}]
    )
    budget: Budget | None = Field(
        None, description="when it ends; none: the `budget` at the top", examples=[{"epochs": 3}]
    )


@dataclass
class AdaptersRecipe:
    """Recipes by the adapters' names, in order, which agree in all but `name`, `data`, `train` and their one stage.

    `source`: what names the file in messages; `notes`: what its reader is told.
    """

    name: str
    recipes: dict[str, Recipe]
    base: Path = field(default_factory=Path.cwd)
    source: str = "recipe"
    notes: list[str] = field(default_factory=list)

    def dump(self) -> str:
        """YAML text with every default written out and paths from the root; `read` gives equal recipes back."""
        entries, common = [], dict[str, Any]()
        for name, recipe in self.recipes.items():
            tree = yaml_text.read(recipe.dump(absolute=True), name).tree
            (stage,) = tree.pop("stages")
            own = {k: v for k, v in stage.items() if k in ("methods", "budget")}
            entries.append({"name": name, **own, "data": tree.pop("data"), "train": tree.pop("train")})
            common = {**tree, "name": self.name}
        return yaml_text.write({**common, ADAPTERS: entries})


def lists_adapters(recipe: Any) -> bool:
    """Whether what is given as a recipe, a file or plain values, lists adapters. False where it cannot be read."""
    if isinstance(recipe, Recipe):
        return False
    if isinstance(recipe, Mapping):
        return ADAPTERS in recipe
    try:
        return ADAPTERS in opened(recipe)[0].tree
    except RecipeError:
        return False


def read(recipe: str | Path | Mapping[str, Any] | AdaptersRecipe, sets: Sequence[str] = ()) -> AdaptersRecipe:
    """The recipes of a recipe that lists adapters. RecipeError with file:line, the nearest name and an example."""
    if isinstance(recipe, AdaptersRecipe):
        return recipe
    base, notes = Path.cwd(), list[str]()
    if isinstance(recipe, Mapping):
        document = Document(copy.deepcopy(dict(recipe)))
        for text in sets:
            override(document, text)
        document.tree.setdefault("name", "run")
    else:
        document, file, notes = opened(recipe, sets)
        base = file.resolve().parent
    entries = _checked(document)
    recipes: dict[str, Recipe] = {}
    for i, entry in enumerate(entries):
        made: Recipe = parse(Recipe, _alone(document, i, entry))
        made._base = base
        recipes[entry["name"]] = made
    _check_base(document, entries, list(recipes.values()))
    return AdaptersRecipe(str(document.tree["name"]), recipes, base, document.source, notes)


def _checked(document: Document) -> list[dict[str, Any]]:
    """The entries. RecipeError where one is not an adapter, or where the recipe holds what several cannot share."""
    tree, entries = document.tree, document.tree[ADAPTERS]
    if not isinstance(entries, list) or not entries:
        raise RecipeError(
            f"'{ADAPTERS}' lists what is trained over one base",
            where=document.place((ADAPTERS,)),
            remedy="write adapters: [{name: fee, methods: [lora], data: [fee.jsonl]}]",
        )
    for key, why, remedy in _ALONE:
        if tree.get(key):
            raise RecipeError(
                f"'{key}' and '{ADAPTERS}' are both written: {why}", where=document.place((key,)), remedy=remedy
            )
    seen: dict[str, str] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RecipeError(
                f"an adapter is a mapping (key: value), got {entry!r}",
                where=document.place((ADAPTERS, i)),
                remedy="write {name: fee, methods: [lora], data: [fee.jsonl]}",
            )
        try:
            spec = AdapterSpec.model_validate(entry)
        except ValidationError as error:
            raise explain(error, document, AdapterSpec, (ADAPTERS, i)) from None
        other = seen.get(spec.name.lower())  # some disks hold no two names that differ in case alone
        if other is not None:
            raise RecipeError(
                f"two adapters are named '{spec.name}'"
                + ("" if other == spec.name else f" (the other: '{other}'), which some disks do not tell apart"),
                where=document.place((ADAPTERS, i, "name")),
                remedy="give each its own name",
            )
        seen[spec.name.lower()] = spec.name
        if spec.seed is not None and spec.train is not None and "seed" in spec.train.model_fields_set:
            raise RecipeError(
                f"the seed of '{spec.name}' is written twice",
                where=document.place((ADAPTERS, i, "seed")),
                remedy="keep seed, or train: {seed: ...}",
            )
    return entries


_ALONE = (
    (
        "stages",
        "an adapter has one stage",
        "give the adapters that need several stages recipes of their own, or write methods and budget in each entry",
    ),
    ("tasks", "an adapter has one stage", "give the sequence a recipe of its own"),
    (
        "new_tokens",
        "rows of new tokens are weights of the base, which the adapters share",
        "give the adapters recipes of their own",
    ),
)
"""Keys of a recipe that several adapters cannot share, why, and what to write."""


def _alone(document: Document, i: int, entry: Mapping[str, Any]) -> Document:
    """The recipe of one adapter as a document of its own, its values placed where they were written."""
    shared = {k: copy.deepcopy(v) for k, v in document.tree.items() if k not in (ADAPTERS, "stages", "new_tokens")}
    tree = {**shared, "name": entry["name"]}
    moves: dict[Keys, Keys] = {(k,): (k,) for k in ("name", "methods", "budget") if k in entry}
    tree |= {k: copy.deepcopy(entry[k]) for k in ("methods", "budget") if entry.get(k) is not None}
    own = _rows_alone(entry.get("data"))
    if own is not None:
        there = _rows_alone(shared.get("data"))
        tree["data"] = {**(there if isinstance(there, Mapping) else {}), **copy.deepcopy(own)}
        moves[("data",)] = ("data",) if isinstance(entry["data"], Mapping) else ("data", "train")
    train = {**dict(entry.get("train") or {}), **({} if entry.get("seed") is None else {"seed": entry["seed"]})}
    if train:
        tree["train"] = {**(shared.get("train") or {}), **train}
        moves |= {("train",): ("train",), ("seed",): ("train", "seed")}
    return Document(tree, dict(_placed(document, i, moves)), document.source)


def _placed(document: Document, i: int, moves: Mapping[Keys, Keys]) -> Iterator[tuple[Keys, str]]:
    """Where each value of an adapter's own recipe was written; what is common stands at the top."""
    yield (), document.place((ADAPTERS, i))
    for path, where in document.places.items():
        if path and path[0] != ADAPTERS:
            yield path, where
    for path, where in document.places.items():
        for old, new in moves.items():
            if path[: 2 + len(old)] == (ADAPTERS, i, *old):
                yield (*new, *path[2 + len(old) :]), where


def _check_base(document: Document, entries: Sequence[Mapping[str, Any]], recipes: Sequence[Recipe]) -> None:
    """RecipeError where the adapters could not stand on one base in one process."""
    first = recipes[0]
    if first.model.fresh:
        raise RecipeError(
            "a fresh model has nothing that adapters could share: its tokenizer and its weights are made for one run",
            where=document.place(("model",)),
            remedy="train it by a recipe of its own, and name the folder that `tunewright export` writes as the model",
        )
    for i, recipe in enumerate(recipes):
        if recipe.train.compile:
            raise RecipeError(
                "adapters that share one base's blocks do not run them compiled",
                where=document.place((ADAPTERS, i)),
                remedy="remove train.compile, or give the adapter a recipe of its own",
            )
    for i, recipe in enumerate(recipes):
        if recipe.train.offload_param is not None:
            raise RecipeError(
                "weights that are brought in from disk are held for one model",
                where=document.place((ADAPTERS, i, "train", "offload_param")),
                remedy="leave offload_param out, or give the adapters recipes of their own",
            )
        for key in SHARED:
            mine, theirs = getattr(recipe.train, key), getattr(first.train, key)
            if mine != theirs:
                raise RecipeError(
                    f"'{entries[0]['name']}' and '{entries[i]['name']}' share one base, and ask for another "
                    f"train.{key}: {theirs} and {mine}",
                    where=document.place((ADAPTERS, i, "train", key)),
                    remedy=f"write {key} once, in `train` at the top",
                )
