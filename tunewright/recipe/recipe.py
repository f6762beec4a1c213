"""The recipe: the one file a user writes. Its types, how it is read, and how it is written with every default.

Nothing here imports torch: a recipe is read, checked and written before anything heavy starts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from tunewright.errors import did_you_mean
from tunewright.recipe import series, tables, trajectories, yaml_text
from tunewright.recipe.data_spec import DataSpec, Keep
from tunewright.recipe.explain import explain
from tunewright.recipe.fields import Spec, as_list, problem
from tunewright.recipe.gate import fault_of
from tunewright.recipe.load import absolute_paths, load
from tunewright.recipe.lowering import lower
from tunewright.recipe.measure_spec import MeasureSpec, StreamSpec, in_full, methods_alone
from tunewright.recipe.models import ModelSpec
from tunewright.recipe.naming import PACK, called_twice, kept_names
from tunewright.recipe.overrides import RENAMED
from tunewright.recipe.schema import recipe_schema
from tunewright.recipe.sequence import expanded, with_rows_of_last
from tunewright.recipe.source import Source
from tunewright.recipe.stage import LONGEST_NAME, StageSpec
from tunewright.recipe.tasks import SequenceSpec, TasksSpec
from tunewright.recipe.train_spec import Budget, TrainSpec
from tunewright.recipe.uses import MethodUse, Uses

__all__ = [
    "Budget",
    "DataSpec",
    "Keep",
    "MeasureSpec",
    "MethodUse",
    "ModelSpec",
    "Recipe",
    "Source",
    "StageSpec",
    "TrainSpec",
]


_ROW_USES = ("synthesize", "select")
"""Keys of `data` that name methods."""


_SHOWS = "image-text-to-text"
"""The task whose template may ask the same of every row: what differs is the picture."""


class Recipe(Spec):
    """What to adapt, to what, how, for how long, and what must not be lost."""

    also: ClassVar[dict[str, str]] = RENAMED

    name: str = Field(
        "run",
        max_length=LONGEST_NAME,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the run's folder under runs/; none: the file's name",
        examples=["tickets"],
    )
    model: ModelSpec = Field(
        description="the pre-trained model, or the config of a fresh one", examples=["smollm2-135m-instruct"]
    )
    task: str = Field(description="the hub's name of the task", examples=["text-generation"])
    models: dict[str, ModelSpec] = Field(
        default_factory=dict,
        description="other models that methods may ask for, by role",
        examples=[{"teacher": "./big"}],
    )
    new_tokens: list[str] = Field(
        default_factory=list, description="tokens added to the vocabulary and trained", examples=[["<tool>"]]
    )
    data: DataSpec = Field(description="rows to learn from and to measure on", examples=[{"train": "tickets.jsonl"}])
    keep: Annotated[list[Keep], BeforeValidator(as_list)] = Field(
        default_factory=list, description="what must not be lost (drift is measured anyway)", examples=["general.txt"]
    )
    train: TrainSpec = Field(
        default_factory=TrainSpec, description="how training steps", examples=[{"learning_rate": 2e-4}]
    )
    stages: list[StageSpec] = Field(
        min_length=1,
        description="rounds of training; top-level `methods` and `budget` mean one",
        examples=[[{"name": "task", "methods": ["lora"]}]],
    )
    tasks: list[Any] | TasksSpec | None = Field(
        None,
        description="a sequence of tasks, beside top-level `methods` and `budget`: a stage each, and the matrix of "
        "what is known after each; files, or {by: COLUMN} of the data",
        examples=[{"by": "label", "count": 5}],
    )
    sequence: SequenceSpec | None = Field(None, description="written by `tasks`: what the stages are", examples=[None])
    after: Uses = Field(
        default_factory=list, description="what is done to the tuned weights afterwards, in order", examples=[["lines"]]
    )
    probes: Uses = Field(
        default_factory=list,
        description="probes beside target, kept, drift and cost",
        examples=[["intruder-dimensions"]],
    )
    test_time: Annotated[StreamSpec | None, BeforeValidator(methods_alone)] = Field(
        None,
        description="a stream that the tuned model answers while methods adapt it, without labels",
        examples=[["tent"]],
    )
    measurement: MeasureSpec = Field(
        default_factory=MeasureSpec, description="how base and tuned are measured", examples=[{"rows": 200}]
    )
    gate: dict[str, str] | None = Field(
        None,
        description="conditions on target, drift or kept.NAME, judged at the end and by `tunewright gate`",
        examples=[{"target": ">= 0.85", "kept.general": "no worse by 0.05"}],
    )
    made_with: dict[str, Any] = Field(
        default_factory=dict, description="written by a run: versions and hashes of model and data", examples=[{}]
    )
    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _out: Path | None = PrivateAttr(None)
    _notes: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, /, **data: Any):
        if data.get("tasks") is not None:
            document = yaml_text.Document(copy.deepcopy(data))
            lower(document, Path.cwd())
            data = document.tree
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise explain(error, yaml_text.Document(data), Recipe) from error

    @model_validator(mode="before")
    @classmethod
    def _one_stage(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("stages"), list):
            value = with_rows_of_last({**value, "stages": expanded(value["stages"])[0]})
        if not isinstance(value, dict) or not {"methods", "budget"} & value.keys():
            return value
        given = [k for k in ("methods", "budget") if k in value]
        if "stages" in value:
            raise problem(
                f"'{given[0]}' and 'stages' are both written: '{given[0]}' at the top means one stage",
                f"move {given[0]} into the stages",
                (given[0],),
            )
        if "methods" not in value:
            raise problem("'methods' is missing", "write methods: [lora]", ("methods",))
        rest = {k: v for k, v in value.items() if k not in given}
        return {
            **rest,
            "stages": [{"name": "main", **{k: value[k] for k in given if value[k] is not None or k == "methods"}}],
        }

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        series.of_recipe(self)
        trajectories.of_recipe(self)
        tables.of_recipe(self)
        in_full(self.test_time, self.train, self.model)
        if self.model.url is not None:
            raise problem(
                "what is adapted has to be here: an address gives answers, not weights",
                "write the address under models, and name a model with weights",
                ("model", "url"),
            )
        seen: list[str] = []
        for i, stage in enumerate(self.stages):
            if stage.name in seen:
                raise problem(
                    f"two stages are named '{stage.name}'", "give each stage its own name", ("stages", i, "name")
                )
            _check_start(stage, i, seen)
            _check_evaluations(self, stage, i)
            seen.append(stage.name)
        _check_along(self)
        if fresh := next((role for role, spec in self.models.items() if spec.fresh), None):
            raise problem(
                "only the model that is trained can be a fresh one, and this is another that methods ask for",
                "give a folder: a fresh model that was trained is written by `tunewright export RUN`",
                ("models", fresh, "config"),
            )
        if fault := fault_of(self.gate, self.kept_names(), self.judged):
            raise problem(fault[1].what, fault[1].remedy or "", ("gate", fault[0]))
        if again := called_twice([(k.name, k.data) for k in self.keep]):
            raise problem(
                f"two entries are called '{again[1]}', and the report has one line for each name",
                "give each a name: {data: general.txt, name: general}",
                ("keep", again[0]),
            )
        return self

    @model_validator(mode="after")
    def _templates_take_text(self) -> Recipe:
        places = [(("data",), self.data), *((("stages", i, "data"), s.data) for i, s in enumerate(self.stages))]
        for place, data in places:
            if data is not None and not data.takes_text and self.task != _SHOWS:
                raise problem(
                    "the template does not say where the row's text goes",
                    "put {text} in it: template: 'Question: {text}'",
                    (*place, "template"),
                )
        return self

    @model_validator(mode="after")
    def _tasks_are_stages(self) -> Recipe:
        known = [t.name for t in self.sequence.tasks] if self.sequence is not None else []
        names = [s.name for s in self.stages]
        again = self.sequence is not None and self.sequence.recurring is not None
        if known and not again and len(names) > 1 and names != known:
            raise problem(
                f"the stages are not the tasks of the sequence, in their order: {', '.join(names)}",
                "write `tasks` again, or remove `sequence`",
                ("sequence",),
            )
        return self

    def way_to(self, stage: StageSpec) -> tuple[str, ...]:
        """Names of the stages that a stage goes on from: its start, the start of that one, and so on to the base."""
        by_name, way, start = {s.name: s for s in self.stages}, [], stage.start or "base"
        while start.startswith("stages."):
            way.append(start.removeprefix("stages."))
            start = by_name[way[-1]].start or "base"
        return tuple(way)

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the file's own, or the working directory for one made in
        Python.
        """
        return self._base

    @property
    def notes(self) -> list[str]:
        """What the reader of the file is told: keys that have another name today."""
        return self._notes

    @property
    def out(self) -> Path | None:
        """The run folder asked for, None: runs/<name>."""
        return self._out

    @property
    def judged(self) -> bool:
        """Whether there is anything to measure the target on: rows, or an environment to play in."""
        return self.data.eval is not None or self.measurement.environment is not None

    def train_for(self, stage: StageSpec) -> TrainSpec:
        """`train` with the stage's own keys over it."""
        return _merged(TrainSpec, self.train, stage.train)

    def data_for(self, stage: StageSpec) -> DataSpec:
        """`data` with the stage's own keys over it."""
        return _merged(DataSpec, self.data, stage.data)

    def kept_names(self) -> list[str]:
        """What each `keep` entry is called in the report, in order; all differ."""
        return kept_names([(k.name, k.data) for k in self.keep])

    def uses(self) -> list[tuple[tuple[str | int, ...], str, MethodUse]]:
        """Every method named: (path in the recipe, kind of place, use).

        Kinds: method, after, synthesize, select, probe, adapt, optimizer.
        """
        method_uses: list[tuple[tuple[str | int, ...], str, MethodUse]] = [
            (("train", "optimizer"), "optimizer", self.train.optimizer)
        ]
        for i, stage in enumerate(self.stages):
            method_uses += [(("stages", i, "methods", j), "method", use) for j, use in enumerate(stage.methods)]
            if stage.train and stage.train.optimizer:
                method_uses.append((("stages", i, "train", "optimizer"), "optimizer", stage.train.optimizer))
            for key in _ROW_USES if stage.data else ():
                found = getattr(stage.data, key) or ()
                method_uses += [(("stages", i, "data", key, j), key, use) for j, use in enumerate(found)]
        for place, kind, uses in (("after", "after", self.after), ("probes", "probe", self.probes)):
            method_uses += [((place, j), kind, use) for j, use in enumerate(uses)]
        for key in _ROW_USES:
            method_uses += [(("data", key, j), key, use) for j, use in enumerate(getattr(self.data, key))]
        if self.test_time is not None:
            method_uses += [(("test_time", "adapt", j), "adapt", use) for j, use in enumerate(self.test_time.adapt)]
        return method_uses

    @classmethod
    def load(cls, path: str | Path, sets: Sequence[str] = (), out: str | Path | None = None) -> Recipe:
        """Read a recipe file, with `key.path=value` overrides.

        RecipeError with file:line, the nearest name and an example.
        """
        loaded: Recipe = load(Recipe, path, sets, out)
        return loaded

    def placed_as(self, other: Recipe) -> Recipe:
        """This recipe, with its methods said to stand where those of an equal one do: messages name the user's file."""
        places = {path: use.place for path, _, use in other.uses()}
        for path, _, use in self.uses():
            use._place = places.get(path, use._place)
        return self

    def dump(self, *, absolute: bool = False) -> str:
        """YAML text with every default written out; `load` gives an equal recipe back.

        `absolute`: local paths are written from the root, so that the file means the same in another folder.
        """
        tree = self.model_dump(mode="python")
        if absolute:
            absolute_paths(tree, self.base)
        for key in ("made_with", "test_time", "gate", "tasks", "sequence"):
            if not tree[key]:
                del tree[key]
        return yaml_text.write(tree)

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """JSON Schema of a recipe file, with the names and parameters of every method (imports them)."""
        return recipe_schema(Recipe)


def _check_start(stage: StageSpec, index: int, earlier: list[str]) -> None:
    if stage.start is None:
        stage.start = f"stages.{earlier[-1]}" if earlier else "base"
    if not stage.start.startswith("stages."):
        return
    name = stage.start.removeprefix("stages.")
    if name == stage.name:
        raise problem("a stage cannot start from itself", "write start: base", ("stages", index, "start"))
    if name not in earlier:
        remedy = did_you_mean(name, earlier) if earlier else "write start: base: no stage comes before this one"
        raise problem(f"no earlier stage is named '{name}'", remedy, ("stages", index, "start"))


def _check_evaluations(recipe: Recipe, stage: StageSpec, index: int) -> None:
    """What chooses by evaluations needs some."""
    train, data = recipe.train_for(stage), recipe.data_for(stage)
    for key in ("keep_best", "early_stopping"):
        if getattr(train, key) is None:
            continue
        at = ("stages", index, "train", key) if stage.train and key in stage.train.model_fields_set else ("train", key)
        if train.eval_steps is None:
            raise problem(f"{key} needs evaluations on the way", "write eval_steps: 200 beside it", at)
        if data.validation is None and data.eval is None:
            raise problem(f"{key} needs rows to evaluate on", "write data.validation: 10%, or a file", at)


ALONG = ("drift", "in-context", "distance")
"""What may be followed along a run beside kept texts."""


def _check_along(recipe: Recipe) -> None:
    """What is followed along the way is there, and is looked at somewhere."""
    named = zip(recipe.kept_names(), recipe.keep, strict=True)
    known = [*(name for name, k in named if not k.data.startswith(PACK)), *ALONG]
    for i, name in enumerate(recipe.measurement.along):
        at = ("measurement", "along", i)
        if name not in known:
            raise problem(f"'{name}' is nothing that can be followed along a run", did_you_mean(name, known), at)
        if name in recipe.measurement.along[:i]:
            raise problem(f"'{name}' stands there twice", "name each once", at)
    looked = [s for s in recipe.stages if recipe.train_for(s).eval_steps is not None]
    if recipe.measurement.along and not looked:
        raise problem(
            "what is followed along a run needs evaluations on the way",
            "write train.eval_steps: 20",
            ("measurement", "along"),
        )
    if recipe.measurement.along and any(
        recipe.data_for(s).validation is None and recipe.data_for(s).eval is None for s in looked
    ):
        raise problem(
            "evaluations on the way need rows to evaluate on",
            "write data.validation: 10%, or a file",
            ("measurement", "along"),
        )


def _merged(spec: type[Any], common: Spec, own: Spec | None) -> Any:
    if own is None:
        return common
    given = {k: getattr(own, k) for k in own.model_fields_set}
    try:
        return spec.model_validate({**{k: getattr(common, k) for k in spec.model_fields}, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise problem(
            f"'{first['loc'][0] if first['loc'] else spec.__name__}' cannot be empty",
            "leave the key out to keep what holds for all stages",
        ) from None
