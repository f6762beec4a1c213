"""Tables, columnar files and folders of pictures: rows that are written well and then damaged, in bytes or in what
they say, and first recipes for them.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests import small
from tests.fuzz import mutate

datasets.disable_progress_bars()
HEADERS = (
    *(["prompt", "completion"], ["text", "label"], ["text"], ["Question", "Answer"], ["v1", "v2"]),
    *(["", "prompt", "completion"], ["prompt", "prompt"], ["1", "2"], ["prompt", "completion", ""], []),
)
CELLS = (
    *(
        "card lost",
        "lost card",
        "",
        " ",
        "007",
        "1e5",
        "NA",
        'say "yes"',
        '"',
        "a,b",
        "a;b",
        "two\nlines",
        "a\tb",
        "\r",
    ),
    *("é\u0301🙂", "=1+1", "#N/A", "\\", "x" * 3000, "\u2028", "text", "prompt"),
)


def _grid(rng: random.Random) -> list[list[str]]:
    header = list(rng.choice(HEADERS))
    wide = len(header) if rng.random() < 0.8 else rng.randrange(5)
    return [header, *([rng.choice(CELLS) for _ in range(wide)] for _ in range(rng.choice((0, 1, 6))))]


def _delimited(mark: str) -> Callable[[list[list[str]], Path, random.Random], None]:
    def write(grid: list[list[str]], path: Path, rng: random.Random) -> None:
        out = io.StringIO()
        csv.writer(out, delimiter=mark, lineterminator=rng.choice(("\n", "\r\n", "\r"))).writerows(grid)
        path.write_bytes(out.getvalue().encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16"))))

    return write


def _packed(grid: list[list[str]], path: Path, rng: random.Random) -> None:
    _delimited(",")(grid, path, rng)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _zstd(grid: list[list[str]], path: Path, rng: random.Random) -> None:
    _delimited(",")(grid, path, rng)
    data = path.read_bytes()
    with pa.output_stream(str(path), compression="zstd") as f:
        f.write(data)


def _sheet(grid: list[list[str]], path: Path, rng: random.Random) -> None:
    book = openpyxl.Workbook()
    for row in grid:
        book.active.append([c for c in row if "\r" not in c])
    if rng.random() < 0.3:
        book.active.merge_cells("A1:B3")
    if rng.random() < 0.3:
        book.create_sheet("More", rng.choice((0, None)))
    book.save(path)
    if rng.random() < 0.5:
        with zipfile.ZipFile(path) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        hit = rng.choice(list(members))
        members[hit] = mutate.raw(members[hit], rng)
        if rng.random() < 0.1:
            del members[hit]
        with zipfile.ZipFile(path, "w") as archive:
            for name, body in members.items():
                archive.writestr(name, body)


def _table(grid: list[list[str]], rng: random.Random) -> pa.Table:
    def column(i: int) -> Any:
        values = [row[i] if i < len(row) else None for row in grid[1:]]
        return rng.choice(
            (
                lambda: pa.array(values, pa.string()),
                lambda: pa.array(values, pa.large_string()),
                lambda: pa.array(values, pa.string()).dictionary_encode(),
                lambda: pa.nulls(len(values)),
                lambda: pa.array([[v] for v in values], pa.list_(pa.string())),
                lambda: pa.array([{"a": v} for v in values], pa.struct([("a", pa.string())])),
                lambda: pa.array([b"\xff\xfe"] * len(values)),
                lambda: pa.array(range(len(values)), pa.timestamp("ns")),
            )
        )()

    made = pa.table([column(i) for i in range(len(grid[0]))], names=grid[0])
    said = rng.choice((None, None, '{"info": {"features": {"text": {"_type": "Value"}}}}', "{", '{"info": 3}'))
    return made if said is None else made.replace_schema_metadata({"huggingface": said})


def _parquet(grid: list[list[str]], path: Path, rng: random.Random) -> None:
    pq.write_table(_table(grid, rng), path)


def _arrow(grid: list[list[str]], path: Path, rng: random.Random) -> None:
    made = _table(grid, rng)
    with rng.choice((pa.ipc.new_file, pa.ipc.new_stream))(str(path), made.schema) as f:
        f.write_table(made)


KINDS = {
    "csv": _delimited(","),
    "tsv": _delimited("\t"),
    "csv.gz": _packed,
    "csv.zst": _zstd,
    "xlsx": _sheet,
    "parquet": _parquet,
    "arrow": _arrow,
}


def tables(folder: Path, rng: random.Random) -> list[str]:
    """A file of rows of one of these kinds, and a recipe for it or the wish for one."""
    kind = rng.choice([*KINDS, "csv", "csv"])
    file = folder / f"fuzzed.{kind}"
    try:
        KINDS[kind](_grid(rng), file, rng)
    except (pa.ArrowException, ValueError):  # what a library does not write nobody has
        file.write_bytes(b"")
    if rng.random() < 0.6:
        file.write_bytes(mutate.raw(file.read_bytes(), rng, rng.choice((1, 1, 3))))
    return _asked(folder, file.name, rng)


def folders(folder: Path, rng: random.Random) -> list[str]:
    """A folder of pictures, recordings, or a saved data set, with something lost, added or broken in it."""
    at = folder / "fuzzed"
    if rng.random() < 0.3:
        datasets.Dataset.from_dict({"text": ["card lost", "fee"], "label": ["a", "b"]}).save_to_disk(at)
    else:
        tops = rng.choice((("cat", "dog"), ("train/cat", "train/dog", "test/cat"), ("",), ("a/b", "c"), ("train", "x")))
        for k, top in enumerate((*tops, *tops)):
            (at / top).mkdir(parents=True, exist_ok=True)
            name = rng.choice(("1.png", "2.PNG", "3.jpg", "4.wav", "noend", ".hidden.png", "é 5.png", "6.txt"))
            Image.new(rng.choice(("RGB", "L", "RGBA")), (4, 4), k).save(at / top / name, "PNG")
        if rng.random() < 0.4:
            (at / rng.choice(("metadata.csv", "train/metadata.jsonl"))).parent.mkdir(exist_ok=True)
            rows = rng.choice((b"file_name,label\ncat/1.png,x\n", b"file,label\na,b\n", b'{"file_name": "../x"}\n'))
            (at / rng.choice(("metadata.csv", "metadata.jsonl"))).write_bytes(rows)
        if rng.random() < 0.3:
            os.symlink(at, at / "again")
    files = sorted(p for p in at.rglob("*") if p.is_file())
    for _ in range(rng.choice((0, 1, 2))):
        hit = rng.choice(files)
        if hit.exists() and rng.random() < 0.2:
            hit.unlink()
        elif hit.exists():
            hit.write_bytes(mutate.raw(hit.read_bytes(), rng))
    return _asked(folder, "fuzzed", rng)


def _asked(folder: Path, name: str, rng: random.Random) -> list[str]:
    if rng.random() < 0.25:
        return ["init", str(folder / "base"), str(folder / name), "--out", str(folder / "new.yaml")]
    source: dict[str, Any] = {"path": name}
    for key, values in {
        "split": ("train", "test", "train[:50%]", "train[", "nope"),
        "sheet": ("Sheet", "More", "nope"),
        "columns": ({"text": "v2"}, {"prompt": "Question", "completion": "Answer"}),
        "format": ("text", "image-label"),
    }.items():
        if rng.random() < 0.15:
            source[key] = rng.choice(values)
    return ["check", str(small.write_recipe(folder, "fuzzed", data={"train": source, "max_length": 64}, keep=[]))]
