"""How fast rows are read from each kind of file, beside pandas and pyarrow: rows a second of CPU time, one core."""

from __future__ import annotations

import argparse
import csv
import gc
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunewright.data.read import locate, raw_rows, read_lazily
from tunewright.recipe import Source

KINDS = ("t.csv", "t.parquet", "t.arrow", "t.jsonl")


def write(folder: Path, rows: int) -> None:
    """The same rows, of three columns and about 150 bytes, as each kind of file."""
    rng = random.Random(0)
    words = [str(rng.random()) for _ in range(1000)]
    columns = {
        "text": [" ".join(rng.choices(words, k=8)) for _ in range(rows)],
        "label": [rng.choice("abc") for _ in range(rows)],
        "n": [str(i) for i in range(rows)],
    }
    table = pa.table(columns)
    with (folder / "t.csv").open("w", newline="") as f:
        csv.writer(f).writerows([list(columns), *zip(*columns.values(), strict=True)])
    pq.write_table(table, folder / "t.parquet")
    with pa.ipc.new_stream(str(folder / "t.arrow"), table.schema) as stream:
        stream.write_table(table)
    with (folder / "t.jsonl").open("w") as f:
        f.writelines(json.dumps(row) + "\n" for row in table.to_pylist())


def readers(folder: Path) -> dict[str, Callable[[], int]]:
    """What reads the files, each giving how many rows it saw."""
    ours: dict[str, Callable[[], int]] = {}
    for kind in KINDS:
        source = Source(path=kind)
        ours[f"{kind}: rows"] = lambda s=source: sum(1 for _ in raw_rows(locate(s, folder), s))
        ours[f"{kind}: records of a shape"] = lambda s=source: sum(1 for _ in read_lazily(s, folder).records)
    parts = {"dtype": str, "keep_default_na": False, "chunksize": 10_000}
    return {
        **ours,
        "pandas, CSV by chunks to mappings": lambda: sum(
            len(part.to_dict("records")) for part in pd.read_csv(folder / "t.csv", **parts)
        ),
        "csv.DictReader": lambda: sum(1 for _ in csv.DictReader((folder / "t.csv").open(newline=""))),
        "pyarrow, Parquet to Python values": lambda: sum(
            len(batch.to_pylist()) for batch in pq.ParquetFile(folder / "t.parquet").iter_batches(1024)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--times", type=int, default=3, help="the fastest is told")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.rows)
        best = dict.fromkeys(readers(Path(folder)), 0.0)
        for _ in range(given.times):
            for name, read in readers(Path(folder)).items():
                gc.collect()
                start = time.process_time()
                best[name] = max(best[name], read() / (time.process_time() - start))
    for name, rate in best.items():
        print(f"{name:40} {rate:12,.0f} rows/s")


if __name__ == "__main__":
    main()
