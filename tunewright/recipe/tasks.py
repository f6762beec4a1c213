"""`tasks`: a sequence of tasks in one line of a recipe, and what a resolved recipe keeps of it beside its stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from tunewright.recipe.fields import Real, Spec, Whole, as_list, problem

Scenario = Literal["class-incremental", "domain-incremental", "task-incremental"]
Value = str | int | float | bool


class BlurrySpec(Spec):
    """Tasks without sharp borders, as in i-Blurry (Koh et al. 2022, arXiv:2110.10031): some values are of one task
    alone, and a share of the rows of all others is spread over all tasks.
    """

    disjoint: Real = Field(0.5, ge=0, lt=1, description="share of a task's values that it alone has", examples=[0.5])
    blur: Real = Field(
        0.1, gt=0, lt=1, description="share of the other values' rows that is spread over all tasks", examples=["10%"]
    )

    stochastic: Whole | None = Field(
        None,
        ge=0,
        description="seed by which tasks differ in how many values they have alone and share, and in their part of the "
        "rows that are spread, as in Si-Blurry; none: all alike",
        examples=[1],
    )


class RecurringSpec(Spec):
    """A long sequence whose tasks have a few values each that come again, as in SCoLe (Lesort et al. 2022,
    arXiv:2207.04543).
    """

    tasks: Whole = Field(gt=1, description="how many tasks come", examples=[50])
    values: Whole = Field(gt=0, description="values of the column in each, drawn anew", examples=[2])
    share: Real = Field(
        1.0, gt=0, le=1, description="share of a value's rows that a task with it learns from", examples=["10%"]
    )
    seed: Whole = Field(0, ge=0, description="seed of the draws", examples=[1])


class TasksSpec(Spec):
    """Tasks that are learnt one after the other: a list of files, or one data set cut by a column."""

    of: list[Any] | None = Field(
        None,
        description="files, or mappings of keys of `data` with a `name`: a task each; a list alone is short for it",
        examples=[["account.jsonl", "billing.jsonl"]],
    )
    by: str | None = Field(
        None,
        min_length=1,
        description="column that cuts data.train and data.eval into tasks: `label` for classes, or any other",
        examples=["label"],
    )
    permuted: Whole | None = Field(
        None,
        gt=1,
        description="so many tasks, each of all rows with the pixels of its pictures in another order; the first as "
        "they are. `order_seed` draws other orders",
        examples=[5],
    )
    count: Whole | None = Field(
        None,
        gt=1,
        description="how many tasks the column's values make; none: one for each value (of `label` it must be said)",
        examples=[5],
    )
    first: Whole | None = Field(
        None, gt=0, description="values in the first task; the others share the rest; none: all alike", examples=[50]
    )
    order: Annotated[list[Value] | None, BeforeValidator(as_list)] = Field(
        None,
        description="the column's values, or the tasks' names, in order; none: sorted, or as listed",
        examples=[[]],
    )
    order_seed: Whole | None = Field(
        None, ge=0, description="an order that is drawn by this seed, in the place of `order`", examples=[1]
    )
    scenario: Scenario | None = Field(
        None,
        description="class-incremental: tasks have classes of their own; domain-incremental: they share classes; "
        "task-incremental: when asked the task is known, and an answer is chosen among its classes; none: told from "
        "the rows, which of the first two",
        examples=["task-incremental"],
    )
    carry: Literal["fold", "frozen", "training", "drop"] | None = Field(
        None,
        description="what becomes of the deltas that a task starts with, as of a stage; none: as the methods ask, "
        "and fold where none asks",
        examples=["frozen"],
    )
    blurry: BlurrySpec | None = Field(
        None, description="rows of other tasks' values among a task's own", examples=[{"disjoint": 0.5, "blur": "10%"}]
    )
    recurring: RecurringSpec | None = Field(
        None,
        description="tasks of a few values each, which come again; measured are all values after each",
        examples=[{"tasks": 50, "values": 2}],
    )
    online: bool = Field(False, description="every row is seen once: one pass over each task", examples=[True])

    def _varies(self) -> bool:
        return self.blurry is not None and self.blurry.stochastic is not None

    @model_validator(mode="before")
    @classmethod
    def _list_alone(cls, value: Any) -> Any:
        return {"of": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_way(self) -> TasksSpec:
        if sum(way is not None for way in (self.of, self.by, self.permuted)) != 1:
            ways = [f"`{n}`" for n in ("of", "by", "permuted") if getattr(self, n) is not None]
            what = f"both {' and '.join(ways)} say" if ways else "neither `of` nor `by` says"
            raise problem(
                f"{what} what the tasks are", "write tasks: [one.jsonl, two.jsonl], or tasks: {by: label, count: 5}"
            )
        if self.of is not None and len(self.of) < 2:
            many = "none" if not self.of else "one"
            raise problem(
                f"a sequence has two tasks or more, and here is {many}",
                "list another, or leave `tasks` out: top-level `methods` and `budget` are one stage",
            )
        if self.permuted is not None:
            for key in ("count", "first", "blurry", "recurring", "order"):
                if getattr(self, key) is not None:
                    raise problem(
                        f"'{key}' is of values of a column, and these tasks are all rows", f"remove {key}", (key,)
                    )
        for key in ("count", "first", "blurry", "recurring") if self.of is not None else ():
            if getattr(self, key) is not None:
                raise problem(f"'{key}' cuts one data set, and these tasks are listed", f"remove {key}", (key,))
        drawn = "recurring" if self.recurring else "blurry.stochastic" if self._varies() else None
        taken = {"recurring": ("count", "first", "blurry", "scenario"), "blurry.stochastic": ("first",)}
        for key in (*taken[drawn], "order", "order_seed") if drawn else ():
            if getattr(self, key) is not None:
                raise problem(
                    f"'{drawn}' draws which values a task has, and '{key}' is written", f"remove {key}", (key,)
                )
        if self._varies() and self.count is None:
            raise problem("how many tasks the values are drawn for is not said", "write count: 5", ("blurry",))
        if self.by == "label" and self.count is None and self.recurring is None:
            raise problem("how many tasks the classes make is not said", "write count: 5", ("by",))
        if self.order is not None and self.order_seed is not None:
            raise problem("the order is written, and drawn by a seed", "keep one of the two", ("order_seed",))
        return self


class SequenceTask(Spec):
    """One task of a sequence, as `tasks` made it."""

    compact: ClassVar[bool] = True
    name: str = Field(description="its stage's name", examples=["task-1"])
    eval: list[str] = Field(description="names of the sources that it is measured on", examples=[["task-1"]])
    validation: list[str] = Field(
        default_factory=list, description="names of its validation sources", examples=[["task-1/validation"]]
    )
    train: list[str] = Field(description="names of the sources that it learns from", examples=[["task-1"]])
    classes: list[str] = Field(
        default_factory=list, description="classes of its training rows, where they have one each", examples=[["no"]]
    )


class SequenceSpec(Spec):
    """Written by `tasks`: the tasks that the stages are, in order."""

    tasks: list[SequenceTask] = Field(min_length=2, description="the tasks in order", examples=[[]])
    scenario: Scenario | None = Field(None, description="as `tasks` said, or as the rows told", examples=[None])
    by: str | None = Field(None, description="column that the rows were cut by", examples=["label"])
    carry: Literal["fold", "frozen", "training", "drop"] | None = Field(
        None, description="as `tasks` said, or as the methods asked", examples=[None]
    )
    blurry: BlurrySpec | None = Field(None, description="as `tasks` said", examples=[None])
    online: bool = Field(False, description="as `tasks` said: one pass over each task", examples=[True])
    recurring: RecurringSpec | None = Field(
        None,
        description="as `tasks` said: stages have several of the tasks each, and these come again",
        examples=[None],
    )
    ordered: str = Field("as listed", description="where the order comes from, in words", examples=["sorted"])

    def seen(self, stage: str) -> list[SequenceTask]:
        """The tasks learnt by the end of a stage, its own among them; all, where the stage is none of them."""
        names = [t.name for t in self.tasks]
        return self.tasks[: names.index(stage) + 1] if stage in names else list(self.tasks)
