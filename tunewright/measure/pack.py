"""Packs: small sets of questions whose answers are judged by rule, so that forgetting has figures beside a loss.

A pack is a folder: `pack.yaml` (what it measures, licence, credit, noise floor), rows in JSONL, a README. Those that
ship lie in `measure/packs/`; a copy of one, edited, is named by its path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.errors import DataError, MissingExtraError, did_you_mean
from tunewright.files.home import expanded
from tunewright.files.regular import regular
from tunewright.measure.checkers import CHECKERS
from tunewright.recipe import yaml_text
from tunewright.recipe.naming import PACK, pack_folder

SHIPPED = Path(__file__).parent / "packs"
FILE = "pack.yaml"
_BY_LIBRARY = {"schema", "calls"}
"""Checkers that read JSON schemas."""


class PackInfo(BaseModel):
    """What `pack.yaml` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measures: str = Field(min_length=1, description="what it measures, in a line")
    licence: str = Field(min_length=1, description="of its rows")
    credit: str = Field(min_length=1, description="who wrote its rows")
    floor: float = Field(
        ge=0, le=1, description="noise floor: a smaller change of the share of right answers may be rounding alone"
    )
    floor_from: str = Field(min_length=1, description="how the floor was found")
    limits: str = Field("", description="what its rules cannot see")
    max_new_tokens: int = Field(64, gt=0, description="longest answer, in tokens")
    rows: str = Field("rows.jsonl", min_length=1, description="the file of its rows")


class PackRow(BaseModel):
    """A line of a pack's rows: a question, and by what its answer is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1, description="what is asked")
    system: str | None = Field(None, min_length=1, description="a system turn before it")
    tools: list[dict[str, Any]] = Field(default_factory=list, description="tools that it may call, as transformers has")
    check: dict[str, Any] = Field(min_length=1, description="checker -> what it wants; all have to hold")
    group: str | None = Field(None, min_length=1, description="what it is counted under beside the whole")


@dataclass(frozen=True)
class Pack:
    """A pack that was read. `rows` by place (file:line); `hash`: of all that decides its figures."""

    name: str
    folder: Path
    info: PackInfo
    rows: Mapping[str, PackRow]
    hash: str = field(repr=False, default="")


def shipped() -> list[str]:
    """The names of the packs that ship."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{FILE}"))


def is_pack(data: str) -> bool:
    """Whether a `keep` entry's data is a pack: pack:NAME, or pack:./FOLDER."""
    return data.startswith(PACK)


def place_of(data: str, base: Path | str = ".", where: str = "keep") -> Path:
    """The folder of `pack:NAME` or `pack:./FOLDER`, which is seen from `base`. DataError where there is none."""
    name, own = data.removeprefix(PACK), pack_folder(data)
    if own is None and name in shipped():
        return SHIPPED / name
    if own is None:
        here = name and (Path(base) / name / FILE).is_file()
        remedy = f"write {PACK}./{name} for the folder" if here else did_you_mean(name, shipped())
        raise DataError(f"no pack is called '{name}'", where=where, remedy=remedy)
    folder = Path(base) / expanded(own)
    if not (folder / FILE).is_file():
        what = f"'{own}' is no pack: " + (f"there is no {FILE} in it" if folder.is_dir() else "there is no such folder")
        raise DataError(what, where=where, remedy="copy one that ships, and edit it (docs/measurement.md)")
    return folder


def load_pack(
    data: str, base: Path | str = ".", *, name: str = "", limit: int | None = None, where: str = "keep"
) -> Pack:
    """Read a pack, at most its first `limit` rows. `name`: what the figures are called. DataError naming file and line,
    MissingExtraError without the library that a checker reads schemas with.
    """
    folder = place_of(data, base, where)
    file = folder / FILE
    tree = yaml_text.read(_text(file), str(file)).tree
    info = _valid(PackInfo, tree, str(file))
    rows = dict(_rows(folder / info.rows, limit))
    if not rows:
        raise DataError("it has no rows", where=str(folder / info.rows), remedy="write a row a line")
    h = hashlib.sha256(repr((info.max_new_tokens, [r.model_dump_json() for r in rows.values()])).encode())
    return Pack(name or folder.name, folder, info, rows, h.hexdigest())


_SHOWN = 20
"""Bad rows that a message names."""


def _rows(file: Path, limit: int | None) -> Iterator[tuple[str, PackRow]]:
    """The rows by name. DataError that names every bad one, as far as a few can be shown."""
    lines = [(i, line) for i, line in enumerate(_text(file).splitlines(), 1) if line.strip()]
    bad = list[DataError]()
    for i, line in lines[:limit]:
        try:
            row = _row(line, f"{file}:{i}")
        except DataError as error:
            bad.append(error)
            continue
        yield f"{file.name}:{i}", row
    if len(bad) == 1:
        raise bad[0]
    if bad:
        said = "".join(f"\n  {e.where}: {e.what} ({e.remedy})" for e in bad[:_SHOWN])
        rest = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        what = f"{len(bad)} of {len(lines[:limit])} rows cannot be used:{said}{rest}"
        raise DataError(what, where=str(file), remedy="mend these lines, or take them out")


def _row(line: str, where: str) -> PackRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise DataError(f"not JSON: {e}", where=where, remedy="write one JSON object a line") from None
    row = _valid(PackRow, value, where)
    _checked(row, where)
    return row


def _checked(row: PackRow, where: str) -> None:
    for name, wanted in row.check.items():
        if name not in CHECKERS:
            what = f"check: no checker is called '{name}'"
            raise DataError(what, where=where, remedy=did_you_mean(name, CHECKERS))
        if name in _BY_LIBRARY and importlib.util.find_spec("jsonschema") is None:
            what = f"'{name}' reads JSON schemas with jsonschema, which is not installed"
            raise MissingExtraError(what, where=where, remedy="pip install 'tunewright[metrics]'")
        if fault := CHECKERS[name].fault(wanted):
            what = f"check.{name}: {fault}, not {json.dumps(wanted, ensure_ascii=False)}"
            raise DataError(what, where=where, remedy=f"of '{name}': {CHECKERS[name].says}")
    named = [t["function"].get("name") if isinstance(t.get("function"), dict) else None for t in row.tools]
    if not all(isinstance(n, str) and n for n in named):
        remedy = 'write {"type": "function", "function": {"name": ..., "parameters": {...}}}'
        raise DataError("tools: a tool without a name", where=where, remedy=remedy)
    for tool in row.tools:
        if fault := CHECKERS["schema"].fault(tool["function"].get("parameters") or {}):
            raise DataError(f"tools: {fault}", where=where, remedy="write the JSON schema of its arguments")
    wanted = row.check.get("calls")
    if isinstance(wanted, dict) and wanted["name"] not in named:
        what = f"check.calls: the row has no tool '{wanted['name']}'"
        raise DataError(what, where=where, remedy=did_you_mean(wanted["name"], [str(n) for n in named]))


M = TypeVar("M", bound=BaseModel)


def _valid(model: type[M], value: Any, where: str) -> M:
    if not isinstance(value, dict):
        raise DataError("a mapping is needed", where=where, remedy=f"write {', '.join(model.model_fields)}")
    if other := next((k for k in value if k not in model.model_fields), None):
        remedy = did_you_mean(str(other), model.model_fields)
        raise DataError(f"there is no '{other}' here", where=where, remedy=remedy)
    try:
        return model.model_validate(value)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(map(str, first["loc"]))
        says = model.model_fields[str(first["loc"][0])].description if first["loc"] else ""
        raise DataError(f"{name}: {first['msg'].lower()}", where=where, remedy=f"{name}: {says}") from None


def _text(file: Path) -> str:
    try:
        return regular(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        what = f"cannot be read: {getattr(e, 'strerror', None) or e}"
        raise DataError(what, where=str(file), remedy="give the file, as UTF-8 text") from None
