"""What choosing rows without a model costs: megabytes of text a second of CPU time, by selector, over files of rows.

`python -m benchmarks.selecting FILE.jsonl ...` reads each file's texts, and times each selector over them twice (`dsir`
aims at its first tenth, as `quality-classifier` does; its second pass over the records meets n-grams that it has
hashed). `language` stands there where its extra is installed. Where `datasketch` is
installed (no part of Tunewright), its MinHash with 128 permutations and LSH at the same bound stand beside
`near-duplicate`, in the same process and in turn: what it keeps is near to what the exact filter keeps.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.contract.records import Record
from tunewright.data.select._text import in_batches
from tunewright.data.select.dsir import DSIR, Grams
from tunewright.data.select.language import Language
from tunewright.data.select.length import Length
from tunewright.data.select.near_duplicate import NearDuplicate
from tunewright.data.select.quality_classifier import BITS, QualityClassifier, vectors
from tunewright.data.select.quality_rules import QualityRules
from tunewright.data.select.random import RandomDraw
from tunewright.data.select.toxicity import Toxicity

WORD = re.compile(r"\w+")
ROUNDS = 2
WORDS = tuple(f"nonsense{i}" for i in range(400))
"""As many as common lists have."""


def read(file: Path) -> list[Record]:
    """The texts of a file's rows, whatever their columns."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    texts = ["\n".join(v for v in row.values() if isinstance(v, str)) for row in rows]
    return [Record({"text": text}, id=f"{file.name}:{i}", source=file.name) for i, text in enumerate(texts, 1)]


def by_datasketch(records: list[Record]) -> int:
    """How many records datasketch keeps."""
    sketch: Any = importlib.import_module("datasketch")
    index, kept = sketch.MinHashLSH(threshold=0.7, num_perm=128), dict[int, Any]()
    for i, record in enumerate(records):
        words = WORD.findall(record["text"].lower())
        mine = sketch.MinHash(num_perm=128)
        mine.update_batch([" ".join(words[k : k + 3]).encode() for k in range(max(1, len(words) - 2))])
        if not any(kept[k].jaccard(mine) >= 0.7 for k in index.query(mine)):
            index.insert(i, mine)
            kept[i] = mine
    return len(kept)


def counted(records: list[Record], grams: Grams) -> int:
    return sum(len(grams.of(texts)[0]) for _, texts in in_batches(records))


def weighed(records: list[Record]) -> int:
    """Texts whose vectors of n-grams are multiplied with weights: what scoring takes."""
    weights = np.ones(1 << BITS)
    return sum(len(vectors(texts, 2) @ weights) for _, texts in in_batches(records))


def main() -> None:
    for file in map(Path, sys.argv[1:]):
        records = read(file)
        size = sum(len(r["text"].encode()) for r in records)
        grams = Grams()
        parts: dict[str, Callable[[], int]] = {
            "length": lambda r=records: len(Length().select(r).indices),  # type: ignore[misc]
            "random": lambda r=records: len(RandomDraw().select(r, random.Random(0)).indices),  # type: ignore[misc]
            "dsir, a pass": lambda r=records, g=grams: counted(r, g),  # type: ignore[misc]
            "dsir, all of it": lambda r=records: len(  # type: ignore[misc]
                DSIR().select(r, r[: max(1, len(r) // 10)], random.Random(0)).indices
            ),
            "near-duplicate": lambda r=records: len(NearDuplicate().select(r).indices),  # type: ignore[misc]
            "quality-rules": lambda r=records: len(QualityRules().select(r).indices),  # type: ignore[misc]
            "quality, a pass": lambda r=records: weighed(r),  # type: ignore[misc]
            "quality, all": lambda r=records: len(  # type: ignore[misc]
                QualityClassifier().select(r, r[: max(1, len(r) // 10)], random.Random(0)).indices
            ),
            "toxicity, words": lambda r=records: len(Toxicity(words=WORDS).select(r).indices),  # type: ignore[misc]
        }
        if importlib.util.find_spec("py3langid") is not None:
            parts["language"] = lambda r=records: len(Language().select(r).indices)  # type: ignore[misc]
        if importlib.util.find_spec("datasketch") is not None:
            parts["datasketch"] = lambda r=records: by_datasketch(r)  # type: ignore[misc]
        rates: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(ROUNDS):
            for name, part in parts.items():
                began = time.process_time()
                part()
                rates[name].append(size / 1e6 / (time.process_time() - began))
        print(f"{file.name}: {len(records):,} rows, {size / 1e6:.1f} MB")
        for name, found in rates.items():
            print(f"  {name:16} " + " ".join(f"{x:8.1f}" for x in found) + " MB/s", flush=True)


if __name__ == "__main__":
    main()
