"""Make the quickstart's data from the original files: `python -m tunewright.data.quickstart.make FOLDER`.

FOLDER holds `banking77/{train,test}.jsonl.gz` (text, label) and `wiki-articles/{train,valid,test}.jsonl.gz` (id, text);
without it, the environment variable TUNEWRIGHT_DATA says where. Everything is drawn by one seed, and no result of a
model enters any choice. The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEED = 0
INTENTS, TRAIN_EACH, VALIDATION_EACH, TEST_EACH = 12, 85, 10, 25
QUESTION = "Which support topic is this?\n"
NEAR = 0.85  # share of common words (Jaccard) from which two messages count as the same
DOCUMENT = 950  # characters of a kept document, about 200 tokens


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def words(text: str) -> frozenset[str]:
    """A message's words without case and punctuation."""
    return frozenset(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def is_near(text: str, others: Iterable[frozenset[str]]) -> bool:
    """Whether a message says nearly the same words as one of the others."""
    mine = words(text)
    return any(len(mine & o) >= NEAR * len(mine | o) for o in others)


def choose_intents(rows: list[dict[str, Any]]) -> list[str]:
    """Draw the intents among those that have rows enough and a name of plain words."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    fit = sorted(
        label
        for label, n in counts.items()
        if n >= TRAIN_EACH + VALIDATION_EACH + 15 and re.fullmatch("[a-z_]+", label)
    )
    return sorted(random.Random(SEED).sample(fit, INTENTS))


def draw(
    rows: list[dict[str, Any]], label: str, n: int, taken: list[frozenset[str]], rng: random.Random
) -> list[dict[str, str]]:
    """Draw up to `n` rows of a label, none near a taken one; what is drawn is taken too."""
    texts = [" ".join(row["text"].split()) for row in rows if row["label"] == label]
    rng.shuffle(texts)
    drawn: list[dict[str, str]] = []
    for text in texts:
        if len(drawn) == n:
            break
        if not is_near(text, taken):
            taken.append(words(text))
            drawn.append({"prompt": QUESTION + text, "completion": label.replace("_", " ")})
    return drawn


def make_rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of test, validation and train, in this order of precedence where two are near each other."""
    train, test = read(folder / "banking77/train.jsonl.gz"), read(folder / "banking77/test.jsonl.gz")
    rng, taken = random.Random(SEED), list[frozenset[str]]()
    intents = choose_intents(train)
    parts = {"test": (test, TEST_EACH), "validation": (train, VALIDATION_EACH), "train": (train, TRAIN_EACH)}
    by_part: dict[str, list[dict[str, str]]] = {}
    for part, (rows, each) in parts.items():
        by_part[part] = [row for label in intents for row in draw(rows, label, each, taken, rng)]
        rng.shuffle(by_part[part])
    return by_part


def paragraphs(article: str) -> list[str]:
    """Clean paragraphs of an article whose breaks were lost: "...end.Next..." is a break; glued headings are left
    out.
    """
    pieces = re.split(r"(?<=[a-z0-9)\]][.!?])(?=[A-Z])", article.replace("\xa0", " "))
    dirty = re.compile(r"[a-z][A-Z]|\( ?[;,)]|\(\s|  | [,.;)]|[^\x20-\x7e–—’‘“”éèüöäáíóñç]|\w\.\w")
    return [p.strip() for p in pieces if len(p) >= 300 and not dirty.search(p)]


def make_document(article: str) -> str | None:
    """The first clean paragraphs of an article, up to about DOCUMENT characters, cut after a sentence."""
    text = ""
    for paragraph in paragraphs(article):
        text = f"{text}\n{paragraph}" if text else paragraph
        if len(text) >= DOCUMENT:
            break
    ends = [m.end() for m in re.finditer(r"[a-z)][.!?](?= [A-Z]|\n|$)", text) if m.end() <= DOCUMENT]
    return text[: ends[-1]] if ends and ends[-1] >= 400 else None


def make_kept(folder: Path) -> str:
    """General prose, a document an article, separated by blank lines."""
    articles = [
        row["text"] for part in ("train", "valid", "test") for row in read(folder / f"wiki-articles/{part}.jsonl.gz")
    ]
    return "\n\n".join(d for d in map(make_document, articles) if d) + "\n"


def main(folder: Path, into: Path = HERE) -> None:
    """Write train, validation and test rows and the kept text into `into`."""
    for part, rows in make_rows(folder).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (into / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    (into / "keep.txt").write_text(make_kept(folder), encoding="utf-8")


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TUNEWRIGHT_DATA")
    if not given:
        sys.exit("give the folder of the original data, or set TUNEWRIGHT_DATA")
    main(Path(given))
