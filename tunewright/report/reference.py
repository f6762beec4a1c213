"""docs/report.md from the schema's own descriptions: `python -m tunewright.report.reference > docs/report.md`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunewright.measure.intervals import Interval
from tunewright.report.schema import VERSION, Report

INTRODUCTION = f"""# report.json

What a run gained, lost and cost, in one file of its folder. `report.html` shows the same. This page is made from the
types in `tunewright/report/schema.py` (`python -m tunewright.report.reference > docs/report.md`).

The format's version is {VERSION}; a change of meaning raises it. Fields may be added within a version: an older release
that reads such a file names the field it does not know. What was not measured is null or empty, never zero.
Losses and divergences are in nats per token, durations in seconds, sizes in bytes; a score whose `unit` is
`fraction` lies between 0 and 1.

`rows.jsonl` holds every evaluated row (`id`, `source`, `prompt`, `base`, `tuned`, `reference`, `base_score`,
`tuned_score`), then every question of a pack (its `source` is the pack's name and group),
`metrics.jsonl` every logged step.

```python
import tunewright

report = tunewright.open_run("runs/quickstart").report
if report.target is not None and report.target.difference is not None:
    print(report.target.difference.value, report.target.difference.low)
```
"""


def _parts(annotation: object) -> Iterator[type[BaseModel]]:
    """The model types that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)


def _type(annotation: object) -> str:
    """An annotation as a reader of JSON would say it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in args)
    if origin is typing.Literal:
        return " or ".join(f"`{a!r}`".replace("'", '"') for a in args)
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is dict:
        return f"object: {_type(args[0])} to {_type(args[1])}"
    if origin is tuple:
        return f"[{', '.join(_type(a) for a in args)}]"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {
        "Any": "any value",
        "str": "string",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "datetime": "time (ISO 8601)",
    }.get(getattr(annotation, "__name__", ""), str(annotation))


def _row(name: str, field: FieldInfo) -> str:
    needed = " (always there)" if field.is_required() else ""
    cells = (f"`{name}`", _type(field.annotation), (field.description or "") + needed)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(model: type[BaseModel]) -> str:
    first = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(
        [
            f"## {model.__name__}",
            "",
            " ".join(first.split()),
            "",
            "| field | type | meaning |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def markdown() -> str:
    """The whole page: the report first, then each part where it is first mentioned, intervals last."""
    order: list[type[BaseModel]] = [Report]
    for model in order:
        for field in model.model_fields.values():
            order += [part for part in _parts(field.annotation) if part not in order and part is not Interval]
    order.append(Interval)
    return INTRODUCTION + "\n" + "\n".join(_section(model) for model in order)


if __name__ == "__main__":
    sys.stdout.write(markdown())
