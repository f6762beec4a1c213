"""The text that the nano bases learn from: open-licence English, held-out documents kept apart.

A document is held out by the hash of its own text, so that neither the order nor the other sources matter. Held-out
documents that share a run of 13 words with a training document are dropped, and so is every training document that
shares one with the quickstart's kept text. Evaluation sets and what the lab's tasks measure (banking77, clinc150,
instruction-induction, german-laws ...) are no source.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import DataError

HELD_ONE_IN = 50
NGRAM = 13
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
QUICKSTART_KEEP = Path(__file__).parents[2] / "data" / "quickstart" / "keep.txt"


def data_folder() -> Path:
    """The folder of the original data sets. DataError saying what to set where there is none."""
    given = os.environ.get("TUNEWRIGHT_DATA")
    if not given or not Path(given).is_dir():
        raise DataError(
            "the lab's data sets are not here",
            where="TUNEWRIGHT_DATA",
            remedy="set TUNEWRIGHT_DATA to the folder that holds them",
        )
    return Path(given)


def rows(name: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Rows of `name` (such as "gsm8k/train.jsonl.gz") below the data folder."""
    with gzip.open((folder or data_folder()) / name, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def chat(question: str, answer: str) -> str:
    """A question and its answer as the nano bases' chat template writes them."""
    return f"{USER}{question.strip()}{END}{ASSISTANT}{answer.strip()}{END}"


@dataclass(frozen=True)
class Source:
    """One source of documents: `read(data folder)` gives their texts. `licence` as its index states it."""

    name: str
    licence: str
    read: Callable[[Path], Iterator[str]]


def _column(name: str, column: str) -> Callable[[Path], Iterator[str]]:
    return lambda folder: (str(row[column]) for row in rows(name, folder))


def _chats(name: str, question: str, answer: str) -> Callable[[Path], Iterator[str]]:
    return lambda folder: (chat(row[question], row[answer]) for row in rows(name, folder))


def _groups(texts: list[str], size: int) -> Iterator[str]:
    for i in range(0, len(texts), size):
        yield "\n".join(texts[i : i + size])


def wikitext(folder: Path) -> Iterator[str]:
    """Articles: each begins with a line ` = Title = `."""
    for part in ("valid", "test"):
        with gzip.open(folder / f"wikitext2/{part}.txt.gz", "rt", encoding="utf-8") as f:
            yield from re.split(r"\n(?= = [^=])", f.read())


def _shakespeare(folder: Path) -> Iterator[str]:
    with gzip.open(folder / "tinyshakespeare/train.txt.gz", "rt", encoding="utf-8") as f:
        yield from _groups(f.read().split("\n\n"), 24)


def _genesis(folder: Path) -> Iterator[str]:
    return _groups(
        [r["text"] for r in rows("genesis-multilingual/train.jsonl.gz", folder) if r["lang"].startswith("en")], 40
    )


def _tanaka(folder: Path) -> Iterator[str]:
    return _groups([r["en"] for r in rows("tanaka-enja/train.jsonl.gz", folder)], 30)


def _pubmed(folder: Path) -> Iterator[str]:
    return (" ".join(r["contexts"]) for r in rows("pubmedqa/train.jsonl.gz", folder))


def _docstrings(folder: Path) -> Iterator[str]:
    """Docstrings of the standard library, a module a document; they depend on the machine's Python (the card says
    which).
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "__pycache__"} & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        docstrings = [
            ast.get_docstring(n)
            for n in ast.walk(tree)
            if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        yield "\n\n".join(d for d in docstrings if d and len(d) > 60)


SOURCES = (
    Source("masc-genres", "open (MASC)", _column("masc-genres/train.jsonl.gz", "text")),
    Source("c4-web", "ODC-BY 1.0", _column("c4-web/train.jsonl.gz", "text")),
    Source("medquad (chat)", "CC BY 4.0", _chats("medquad/train.jsonl.gz", "question", "answer")),
    Source("pubmedqa", "MIT", _pubmed),
    Source("dolly-short (chat)", "CC BY-SA 3.0", _chats("dolly-short/train.jsonl.gz", "instruction", "response")),
    Source("gsm8k (chat)", "MIT", _chats("gsm8k/train.jsonl.gz", "question", "answer")),
    Source("sentiment-domains", "CC BY 4.0", _column("sentiment-domains/train.jsonl.gz", "text")),
    Source("wikitext2 (valid, test)", "CC BY-SA 3.0", wikitext),
    Source("tinyshakespeare", "public domain", _shakespeare),
    Source("genesis-multilingual (English)", "public domain", _genesis),
    Source("tanaka-enja (English)", "CC BY 2.0 FR", _tanaka),
    Source("standard library's docstrings", "PSF-2.0", _docstrings),
)


@dataclass(frozen=True)
class Document:
    """A text and the name of its source."""

    source: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and held out ones; `dropped` counts documents left out, by reason."""

    train: list[Document]
    held: list[Document]
    dropped: dict[str, int]

    def by_source(self) -> dict[str, tuple[int, int]]:
        """Source: (training documents, their characters)."""
        counts = {s.name: (0, 0) for s in SOURCES}
        for d in self.train:
            n, size = counts.get(d.source, (0, 0))
            counts[d.source] = n + 1, size + len(d.text)
        return counts


def is_held(text: str) -> bool:
    """Whether a document is held out: by the hash of its text, one in HELD_ONE_IN."""
    return int(hashlib.sha1(text.encode()).hexdigest(), 16) % HELD_ONE_IN == 0


def ngrams(text: str, n: int = NGRAM) -> set[str]:
    """Runs of n words, without case and punctuation; shorter texts have none."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def split(documents: list[Document], never: set[str] = frozenset()) -> Corpus:  # type: ignore[assignment]
    """Divide documents; `never` are 13-grams that no training document may hold.

    A text that comes twice is taken once.
    """
    unique = list({d.text: d for d in documents}.values())
    held_out, train = [d for d in unique if is_held(d.text)], [d for d in unique if not is_held(d.text)]
    of_held = [ngrams(d.text) for d in held_out]
    watched = set().union(*of_held)
    seen, clean = set[str](), list[Document]()
    for d in train:
        mine = ngrams(d.text)
        if mine & never:
            continue
        seen |= mine & watched
        clean.append(d)
    apart = [d for d, own in zip(held_out, of_held, strict=True) if not own & seen]
    dropped = {
        "repeated": len(documents) - len(unique),
        "training documents that share 13 words with the quickstart's kept text": len(train) - len(clean),
        "held-out documents that share 13 words with a training document": len(held_out) - len(apart),
    }
    return Corpus(clean, apart, dropped)


def build(folder: Path | None = None) -> Corpus:
    """Read every source and divide it.

    The order of documents is shuffled by a fixed seed. DataError without the data.
    """
    folder = folder or data_folder()
    documents = [Document(s.name, t.strip()) for s in SOURCES for t in s.read(folder) if len(t.strip()) > 40]
    random.Random(0).shuffle(documents)
    return split(documents, ngrams(QUICKSTART_KEEP.read_text(encoding="utf-8")))
