"""Where rows are read from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from tunewright.recipe.fields import Real, Spec, Whole, as_list, problem
from tunewright.recipe.models import Place


class Source(Spec):
    """Rows to read: a file, a folder, a hub id or built-in data."""

    shorthand: ClassVar[str | None] = "path"
    compact: ClassVar[bool] = True
    path: Annotated[str, Place] = Field(
        min_length=1,
        description=(
            "JSONL, CSV, XLSX, Parquet, Arrow or text file, folder (also of pictures), hub id, built-in like "
            "quickstart:train, or make:NAME for rows that are made; relative to the recipe"
        ),
        examples=["tickets.jsonl"],
    )
    name: str | None = Field(
        None,
        min_length=1,
        description="its name in row ids and reports; none: the path as written",
        examples=["tickets"],
    )
    split: str | None = Field(
        None,
        description="split of a hub data set, a saved one or a folder (train, test[:10%]); none: train, or all files",
        examples=["train"],
    )
    config: str | None = Field(None, description="configuration of a hub data set", examples=["en"])
    revision: str | None = Field(None, description="commit, branch or tag of a hub data set", examples=["main"])
    sheet: str | None = Field(None, description="sheet of an XLSX file; none: the first", examples=["Sheet1"])
    weight: Real | None = Field(
        None,
        gt=0,
        description="share of the tokens drawn from this source, relative to the others (1 where only others have "
        "one); none anywhere: each row once an epoch",
        examples=[1.0],
    )
    format: str | None = Field(None, description="row shape; none: recognised from the columns", examples=["messages"])
    columns: dict[str, str] = Field(
        default_factory=dict, description="the shape's column -> the file's column", examples=[{"prompt": "question"}]
    )
    limit: Whole | None = Field(None, gt=0, description="read at most this many rows", examples=[1000])
    where: dict[str, Annotated[list[str | int | float | bool], BeforeValidator(as_list), Field(min_length=1)]] = Field(
        default_factory=dict,
        description="column -> the values, of which a row must have one; of the rows that `limit` lets through",
        examples=[{"domain": ["banking", "travel"]}],
    )
    share: tuple[Real, Real] | None = Field(
        None,
        description="of these rows those whose draw, by their place in the file, lies between two numbers from 0 to 1",
        examples=[[0.0, 0.1]],
    )
    permute: Whole | None = Field(
        None,
        gt=0,
        description="pixels of every picture in one order that is drawn by this seed, as in permuted MNIST",
        examples=[1],
    )
    streaming: bool = Field(
        False,
        description="read rows while they are learnt from, some at a time: for sources larger than memory or disk",
        examples=[True],
    )
    parameters: dict[str, Any] | None = Field(
        None, description="of rows that are made (path: make:NAME)", examples=[{"rows": 1000}]
    )
    _target: str | None = PrivateAttr(None)  # of a table: what `data.target` and `data.features` name
    _features: tuple[str, ...] | None = PrivateAttr(None)

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> Any:
        out = super()._write(handler)
        return {k: v for k, v in out.items() if k not in ("where", "share", "permute") or v}

    @model_validator(mode="after")
    def _shares_lie_in_order(self) -> Source:
        if self.share is not None and not 0 <= self.share[0] < self.share[1] <= 1:
            raise problem(
                f"a share is from one number to a larger one, from 0 to 1, got {list(self.share)}",
                "write share: [0, 0.1]",
                ("share",),
            )
        return self

    @model_validator(mode="after")
    def _streams_have_no_limit(self) -> Source:
        if self.streaming and self.limit is not None:
            raise problem(
                "a streamed source is read as far as the budget goes, whatever its limit",
                "remove limit, and write the budget in tokens or steps; or remove streaming",
                ("limit",),
            )
        return self

    @model_validator(mode="after")
    def _parameters_of_what_is_made(self) -> Source:
        if self.parameters is not None and not self.path.startswith("make:"):
            raise problem(
                f"'{self.path}' is read, and takes no parameters",
                "remove parameters, or write path: make:NAME",
                ("parameters",),
            )
        return self


Sources = Annotated[list[Source], BeforeValidator(as_list), Field(min_length=1)]
