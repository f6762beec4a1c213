"""What a selection leaves on disk: the rows that are kept, and a line of scores for every row that there was.

`kept.jsonl` (one for each source where there are several) holds the rows as they stood in their files, in their order,
with files that they name relative to these named in full.
`scores.jsonl` has a line for each row: its id, its scores by selector, whether it is kept, which selector left it out
and why. `selected.json` has the counts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.errors import DataError
from tunewright.files.cache import write_json
from tunewright.report import notebook, words
from tunewright.report.terminal import clean

FILES = tuple(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .npy .npz .wav .flac .mp3 .ogg .opus .m4a .mp4".split())
"""Ends of names of files that rows name, and that are looked for."""
MOST = 12
"""Reasons of a selector that are counted one by one; the rarest others are counted together."""


@dataclass(frozen=True)
class Verdict:
    """What became of a row: its scores by "selector.score", whether it is kept, and else which selector left it out and
    why. `rank`: its place in the order in which selectors keep rows; `weight`: the factor on its loss weights.
    """

    scores: Mapping[str, float]
    kept: bool
    by: str | None = None
    reason: str = ""
    rank: int | None = None
    weight: float = 1.0


@dataclass
class SelectorFigures:
    """One selector: how many rows it was offered and kept, and why the others went. Tokens and FLOPs are those that a
    model read for it.
    """

    name: str
    parameters: dict[str, Any]
    offered: int = 0
    kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0


@dataclass
class SubsetFigures:
    """What was selected. `left_out`: rows that no selector was offered (a run would not train on them either);
    `target`: rows that were aimed at.
    """

    folder: str
    files: list[str]
    scores: str
    rows: int
    kept: int
    left_out: int
    target: int
    selectors: list[SelectorFigures]
    model: str | None
    seconds: float
    tokens: int
    flops: float
    notes: list[str] = field(default_factory=list)


class Subset(SubsetFigures):
    """What was selected; `print(subset)` gives the table of the command line."""

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return notebook.plain(lambda console: show(self, console))

    def __repr__(self) -> str:
        return f"<Subset: {self.kept:,} of {self.rows:,} rows in {self.folder}>"

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: show(self, console))


Said = tuple[int, Mapping[str, Any], str, str, Verdict]
"""(which source, the row as it stood, its source's name, its id, what became of it)."""


def write(said: Iterable[Said], folder: Path, sources: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Write rows and scores into a folder; gives the files, counts, each selector's figures (by `names`, in order) and
    notes: of rows that no selector was offered, and of files that stay empty.

    DataError for rows that JSON cannot hold.
    """
    files = ["kept.jsonl"] if len(sources) == 1 else [f"kept-{name}.jsonl" for name in stems(sources)]
    offered, kept = Counter[str](), Counter[str]()
    reasons: dict[str, Counter[str]] = {name: Counter() for name in names}
    counts, filled = Counter[str](), set[int]()
    unseen: str | None = None
    with ExitStack() as stack:
        out = [stack.enter_context((folder / f).open("w", encoding="utf-8")) for f in files]
        scores = stack.enter_context((folder / "scores.jsonl").open("w", encoding="utf-8"))
        for k, row, source, id, verdict in said:
            counts["rows"] += 1
            counts["kept"] += verdict.kept
            if not verdict.kept and verdict.by is None:
                counts["left_out"] += 1
                unseen = unseen or id
            scores.write(_line(_told(source, id, verdict, len(sources) > 1)))
            if verdict.kept:
                out[k].write(_row(row, id))
                filled.add(k)
            seen = names if verdict.kept else names[: names.index(verdict.by) + 1] if verdict.by is not None else ()
            offered.update(seen)
            kept.update(seen if verdict.kept else seen[:-1])
            if verdict.by is not None and not verdict.kept:
                reasons[verdict.by][verdict.reason or "left out"] += 1
    figures = {n: {"offered": offered[n], "kept": kept[n], "reasons": _few(reasons[n])} for n in names}
    notes = [f"offered to no selector, the first of them: {unseen}"] if unseen is not None else []
    notes += [
        f"no row of {source} is kept: {file} is empty, and a recipe that names it is refused"
        for k, (source, file) in enumerate(zip(sources, files, strict=True))
        if k not in filled
    ]
    counted = {k: counts[k] for k in ("rows", "kept", "left_out")}
    return {"files": files, **counted, "figures": figures, "notes": notes}


def findable(value: Any, base: Path | str) -> Any:
    """A row, or a part of it, in which files of pictures, recordings and arrays that are there relative to the row's
    own folder are named in full, so that they are found from the new one.
    """
    if isinstance(value, str):
        if not value[-5:].lower().endswith(FILES) or "\n" in value or not os.path.isfile(os.path.join(base, value)):
            return value
        return os.path.abspath(os.path.join(base, value))
    if isinstance(value, Mapping):
        found = {k: findable(v, base) for k, v in value.items()}
        return found if any(found[k] is not v for k, v in value.items()) else value
    if isinstance(value, list | tuple):
        parts = [findable(v, base) for v in value]
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    return value


def _told(source: str, id: str, verdict: Verdict, several: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"id": id, **({"source": source} if several else {}), "kept": verdict.kept}
    line |= {"rank": verdict.rank} if verdict.rank is not None else {}
    line |= {"weight": verdict.weight} if verdict.weight != 1.0 else {}
    line |= {"by": verdict.by} if verdict.by is not None and not verdict.kept else {}
    line |= {"reason": verdict.reason} if verdict.reason and not verdict.kept else {}
    return line | {"scores": dict(verdict.scores)}


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _row(row: Mapping[str, Any], id: str) -> str:
    try:
        return _line(row)
    except TypeError as error:
        raise DataError(
            f"the row cannot be written as a JSON line: {error}",
            where=id,
            remedy="rows that hold pictures or recordings are selected in a run: data.select in a recipe",
        ) from None


def _few(counted: Counter[str]) -> dict[str, int]:
    few = dict(counted.most_common(MOST))
    rest = counted.total() - sum(few.values())
    return few | ({"for other reasons": rest} if rest else {})


def stems(sources: Sequence[str]) -> list[str]:
    """A file's name of each source, the second of a name with a number."""
    out: list[str] = []
    for source in sources:
        stem = Path(source.split(":")[-1]).name.split(".")[0] or "rows"
        same = sum(s == stem or s.rpartition("-")[0] == stem for s in out)
        out.append(f"{stem}-{same + 1}" if same else stem)
    return out


def finish(subset: Subset, folder: Path) -> None:
    """Write the counts beside the rows."""
    write_json(folder / "selected.json", subset.to_json())


def show(found: SubsetFigures, console: Console | None = None) -> None:
    """Print what each selector kept, why the others went, what it cost and where it is."""
    out = console or Console(highlight=False, emoji=False)
    aimed = f", aiming at {found.target:,}" if found.target else ""
    out.print(f"{found.kept:,} of {found.rows:,} rows kept{aimed}", style="bold", markup=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("selector", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("left out", overflow="fold")
    for s in found.selectors:
        whys = "; ".join(f"{n:,} {why}" for why, n in s.reasons.items())
        table.add_row(s.name, f"{s.offered:,}", f"{s.kept:,}", clean(whys))
    out.print(table)
    if found.left_out:
        one = found.left_out == 1
        said = "1 row was" if one else f"{found.left_out:,} rows were"
        out.print(f"{said} offered to no selector: a run would not train on {'it' if one else 'them'}", markup=False)
    read = f"; {words.count(found.tokens)} tokens read with {found.model}" if found.tokens else ""
    spent = f", {words.count(found.flops)} FLOPs" if found.flops else ""
    out.print(Text(f"{words.seconds(found.seconds)}{read}{spent}", style="dim"))
    for note in found.notes:
        out.print(f"note: {clean(note)}", markup=False)
    for f in found.files:
        out.print(f"rows: {Path(found.folder) / f}", markup=False, soft_wrap=True)
    out.print(f"scores: {Path(found.folder) / found.scores}", markup=False, soft_wrap=True)
