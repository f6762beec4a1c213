"""What a recipe learns from, what it is measured on and what it keeps: `data` and `keep`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from tunewright.errors import did_you_mean
from tunewright.recipe.boxes import BoxSpec
from tunewright.recipe.fields import Real, Spec, Whole, as_list, parse_number, problem
from tunewright.recipe.masks import MaskSpec
from tunewright.recipe.models import Place
from tunewright.recipe.series import SeriesSpec
from tunewright.recipe.source import Source, Sources
from tunewright.recipe.tables import TableSpec
from tunewright.recipe.trajectories import TrajectorySpec
from tunewright.recipe.uses import Uses
from tunewright.recipe.views import ViewSpec


def _share_or_sources(value: Any) -> Any:
    if isinstance(value, str):
        number = parse_number(value)
        value = value if number is None else number
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value < 1:
            raise problem(
                f"a share of the training rows lies between 0 and 1, got {value}", "write validation: 10%, or a file"
            )
        return value
    return as_list(value)


class DataSpec(Spec):
    """What is learnt from, and what it is measured on."""

    also: ClassVar[dict[str, str]] = {
        "cutoff_len": "max_length",
        "sequence_len": "max_length",
        "max_seq_length": "max_length",
    }
    train: Sources = Field(description="rows to learn from", examples=["tickets.jsonl"])
    eval: Sources | None = Field(
        None, description="rows to measure on, before and after; never trained on", examples=["tickets-test.jsonl"]
    )
    validation: Annotated[list[Source] | Real | None, BeforeValidator(_share_or_sources)] = Field(
        None,
        description="rows for early stopping and keep_best, or the share of the training rows held out for it",
        examples=["10%"],
    )
    synthesize: Uses = Field(
        default_factory=list,
        description="what makes the rows that are trained on, out of those of `train`: methods in order, and judges "
        "(rewards) that these ask",
        examples=[["s3ft", "exact-answer"]],
    )
    select: Uses = Field(
        default_factory=list,
        description="which training rows to use, of what `synthesize` makes where it does: selectors, in order",
        examples=[["dsir"]],
    )
    replay: dict[Annotated[str, Place], Annotated[Real, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="earlier data mixed in: a `keep` entry, a file or stages.<an earlier one's name> -> share of the "
        "tokens",
        examples=[{"general": 0.05}],
    )
    max_length: Whole = Field(1024, gt=1, description="longest row, in tokens", examples=[1024])
    truncation: Literal["auto", "drop", "split", "fail"] = Field(
        "auto",
        description="what becomes of longer rows; auto: plain text is split, others are dropped",
        examples=["split"],
    )
    template: str | None = Field(
        None,
        description="text put around each row's text: {text}, or any column, is filled in",
        examples=["Question: {text}"],
    )
    system: str | None = Field(
        None,
        description="system turn of rows that have none; '': without the one that a chat template adds",
        examples=["Be brief."],
    )
    chat: bool | None = Field(
        None, description="prompts go through the model's chat template; none: when it has one", examples=[False]
    )
    labels: list[str] | None = Field(
        None,
        min_length=1,
        description="class names in the order of their ids; none: those of the rows",
        examples=[["no", "yes"]],
    )
    bad_rows: Literal["fail", "skip"] = Field(
        "fail",
        description="training rows that cannot be used: refused, or left out, counted and told",
        examples=["skip"],
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = Field(
        None,
        description="what a classification's rows have: one class, any number of labels, or a number; none: told from "
        "the rows",
        examples=["regression"],
    )
    masks: MaskSpec | None = Field(
        None,
        description="what numbers of masks mean; none: 255 does not count, others are the places of `labels`",
        examples=[{"classes": {"0": "ground", "255": "road"}}],
    )
    boxes: BoxSpec | None = Field(
        None,
        description="what the numbers of boxes mean (task: object-detection); none: x, y, width, height in pixels",
        examples=[{"format": "pascal_voc"}],
    )
    views: ViewSpec | None = Field(
        None,
        description="how pictures are changed into views (task: image-feature-extraction); none: as photographs may be",
        examples=[{"mirror": False}],
    )
    shuffle: bool = Field(True, description="draw rows in a random order, anew each epoch", examples=[True])
    shuffle_buffer: Whole = Field(
        10_000,
        gt=0,
        description="records of a streamed source that are shuffled together; long ones, fewer",
        examples=[50000],
    )
    packing: bool = Field(
        True, description="rows side by side without padding (no attention across them)", examples=[True]
    )
    series: SeriesSpec | None = Field(
        None, description="how time series become windows (task: time-series-forecasting)", examples=[{"stride": 8}]
    )
    trajectories: TrajectorySpec | None = Field(
        None,
        description="how recorded episodes become windows (task: reinforcement-learning)",
        examples=[{"context": 20}],
    )

    target: str | None = Field(
        None,
        min_length=1,
        description="column that is to be told (tasks: tabular-classification, tabular-regression); none: label",
        examples=["income"],
    )
    features: list[str] | None = Field(
        None,
        min_length=1,
        description="columns that are read, in this order; none: all but the target",
        examples=[["age", "job"]],
    )
    table: TableSpec | None = Field(
        None, description="how a table's cells are written for the model", examples=[{"numbers": "bins"}]
    )

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        kept_back = ("series", "trajectories", "masks", "boxes", "views", "target", "features", "table")
        return {k: v for k, v in super()._write(handler).items() if k not in kept_back or v is not None}

    @model_validator(mode="after")
    def _masks_have_their_classes(self) -> DataSpec:
        if self.masks is None:
            return self
        names = list(dict.fromkeys(name for name in self.masks.classes.values() if name is not None))
        if self.labels is None and len(names) < 2:
            what = "masks is given, and nothing says which classes there are"
            raise problem(what, "write labels, in the order of their numbers, or masks: {classes: ...}", ("masks",))
        if unknown := set(names) - set(self.labels or names):
            what = f"labels does not name the class '{min(unknown)}' of masks.classes"
            raise problem(what, "add it, or leave labels out", ("labels",))
        self.labels = self.labels or names
        if unknown := set(self.masks.weights) - set(self.labels):
            what = f"masks.weights names '{min(unknown)}', which is no class"
            raise problem(what, did_you_mean(min(unknown), self.labels), ("masks", "weights"))
        return self

    @model_validator(mode="after")
    def _replay_leaves_room(self) -> DataSpec:
        if self.replay and (total := sum(self.replay.values())) >= 1:
            raise problem(
                f"{total:.0%} of the tokens would be replayed, which leaves none to learn from",
                "write shares that sum to less than 1",
                ("replay",),
            )
        return self

    @property
    def takes_text(self) -> bool:
        """Whether the template, where there is one, says where something of what a row asks goes."""
        return self.template is None or bool(re.search(r"\{(?!completion\})\w+\}", self.template))


class Keep(Spec):
    """Something the model must not lose."""

    shorthand: ClassVar[str | None] = "data"
    compact: ClassVar[bool] = True
    data: Annotated[str, Place] = Field(
        min_length=1,
        description="general text (or rows) whose loss is measured before and after, or a pack of questions "
        "(pack:NAME, pack:./FOLDER) whose answers are judged",
        examples=["general.txt"],
    )
    metric: Literal["loss"] = Field(
        "loss", description="what is measured on a text, in nats per token", examples=["loss"]
    )
    name: str | None = Field(None, description="its name in the report; none: the file's name", examples=["general"])
    limit: Whole | None = Field(None, gt=0, description="read at most this many documents or questions", examples=[200])

    @model_validator(mode="before")
    @classmethod
    def _named_by_a_key(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1 and not value.keys() & cls.model_fields.keys():
            name, data = next(iter(value.items()))
            if isinstance(data, str):
                raise problem(
                    "an entry of keep is a file or a pack, not a name with one",
                    f"write keep: [{{data: {data}, name: {name}}}]",
                )
        return value
