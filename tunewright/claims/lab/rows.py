"""The lab tasks' rows, drawn from the data sets by a fixed seed and written once as files that a recipe can name.

Files lie in the cache folder under the hash of their content: the same rows are the same file, and a run's key follows them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.claims.lab import corpus, procedural
from tunewright.models.cache import cache_folder

Rows = list[dict[str, Any]]
SEED = 0
QUICKSTART = corpus.QUICKSTART_KEEP.parent


def written(name: str, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Write `parts` (train, validation, eval ...) as JSON lines; returns each part's path."""
    texts = {part: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) for part, rows in parts.items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "lab" / f"{name}-{digest}"
    return {part: _place(folder / f"{part}.jsonl", text.encode()) for part, text in texts.items()}


def _place(path: Path, content: bytes) -> str:
    if not (path.is_file() and path.stat().st_size == len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{hashlib.sha256(content).hexdigest()[:8]}.partial")
        aside.write_bytes(content)
        aside.replace(path)
    return str(path)


def shuffled(rows: Sequence[Any], seed: int = SEED) -> list[Any]:
    """A shuffled copy."""
    out = list(rows)
    random.Random(seed).shuffle(out)
    return out


def cut(rows: Rows, **sizes: int) -> dict[str, Rows]:
    """Consecutive parts of the given sizes. ValueError where the rows do not last."""
    if len(rows) < sum(sizes.values()):
        raise ValueError(f"{len(rows)} rows are fewer than {sum(sizes.values())}")
    out, at = dict[str, Rows](), 0
    for part, size in sizes.items():
        out[part], at = rows[at : at + size], at + size
    return out


@cache
def arithmetic() -> dict[str, str]:
    """Traced programs of two assignments and functions of lists, half of each: no data set needed."""
    made = procedural.make([partial(procedural.program, steps=2), procedural.list_function], 2300, SEED)
    return written("arithmetic", cut(made, eval=200, validation=100, train=2000))


INDUCTION = ("first_word_letter", "letters_list", "singular_to_plural", "sum", "num_to_verbal", "larger_animal", "second_word_letter", "sentiment")
"""The kinds of instruction-induction that a small model can learn: of the others, translations and rhymes need a vocabulary it has not."""


def _instruction(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": f"{row['instruction'].strip().rstrip(':')}: {row['input']}", "completion": row["output"]}


@cache
def induction(kinds: tuple[str, ...] = INDUCTION, validation: int = 120) -> dict[str, str]:
    """Instructions with short answers; eval from the data set's own test rows."""
    name = "induction-" + hashlib.sha256(" ".join(kinds).encode()).hexdigest()[:6]
    train = [_instruction(r) for r in shuffled(corpus.rows("instruction-induction/train.jsonl.gz")) if r["task"] in kinds]
    test = [_instruction(r) for r in shuffled(corpus.rows("instruction-induction/test.jsonl.gz")) if r["task"] in kinds]
    return written(name, {**cut(train, validation=validation, train=len(train) - validation), "eval": test[:240]})


@cache
def topics() -> dict[str, str]:
    """Which of ten domains is a query about? (clinc150; queries outside all of them are left out)"""
    parts = {"train": ("train", 2000), "validation": ("valid", 200), "eval": ("test", 300)}
    taken = set[str]()
    out: dict[str, Rows] = {}
    for part in ("eval", "validation", "train"):
        file, size = parts[part]
        rows = [r for r in shuffled(corpus.rows(f"clinc150/{file}.jsonl.gz")) if r["domain"] != "oos" and r["text"] not in taken][:size]
        taken |= {r["text"] for r in rows}
        out[part] = [{"text": r["text"], "label": r["domain"].replace("_", " ")} for r in rows]
    return written("topics", out)


@cache
def digits(angle: float = 90.0, held: int = 50_000) -> dict[str, str]:
    """MNIST turned by a right angle: the base saw the first `held` training pictures upright, so these are others. `keep`: upright test pictures."""
    folder = corpus.data_folder() / "mnist"
    train, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    turns = round(angle / 90)
    names = np.array([str(i) for i in range(10)])

    def save(part: str, x: np.ndarray, y: np.ndarray) -> str:
        path = cache_folder() / "lab" / f"digits-{angle:g}-{hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:16]}" / f"{part}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{part}.partial.npz")
            np.savez_compressed(aside, x=x, y=y, names=names)
            aside.replace(path)
        return str(path)

    turned, rest = np.rot90(train["x"][held:], turns, axes=(1, 2)), train["y"][held:]
    return {
        "train": save("train", turned[:2000], rest[:2000]),
        "validation": save("validation", turned[2000:2300], rest[2000:2300]),
        "eval": save("eval", np.rot90(test["x"][:400], turns, axes=(1, 2)), test["y"][:400]),
        "keep": save("keep", test["x"][400:600], test["y"][400:600]),
    }


def _quickstart(part: str) -> Rows:
    return [json.loads(line) for line in (QUICKSTART / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


@cache
def preferences() -> dict[str, str]:
    """The quickstart's questions with the right topic preferred to a wrong one."""
    labels = sorted({r["completion"] for r in _quickstart("train")})

    def pairs(part: str) -> Rows:
        rng = random.Random(f"{SEED} {part}")
        rows = _quickstart(part)
        return [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": rng.choice([x for x in labels if x != r["completion"]])} for r in rows]

    return written("preferences", {"train": pairs("train"), "validation": pairs("validation"), "eval": pairs("test")})


def sentences(texts: Sequence[str], shortest: int = 60, longest: int = 160) -> list[str]:
    """Pieces of texts between two lengths in characters, cut after a sentence's end or a line."""
    found = [" ".join(s.split()) for t in texts for s in re.split(r"(?<=[.;:!?])\s+|\n", t)]
    return list(dict.fromkeys(s for s in found if shortest <= len(s) <= longest))


def _texts(rows: Sequence[str]) -> Rows:
    return [{"text": t} for t in rows]


@cache
def domain() -> dict[str, str]:
    """German law, a second language and domain: plain text, split by document as the data set is."""
    out, taken = dict[str, Rows](), set[str]()
    for part, file, size in (("eval", "test", 250), ("validation", "valid", 150), ("train", "train", 3000)):
        found = sentences([r["text"] for r in corpus.rows(f"german-laws/{file}.jsonl.gz")])
        prose = [s for s in found if s[0] not in "#!|:*[" and s not in taken]
        taken |= set(prose)
        out[part] = _texts(shuffled(prose)[:size])
    return written("domain", out)


@cache
def selection() -> dict[str, str]:
    """A pool in which one text in eight is a bank customer's message; validation and eval are such messages alone."""
    test = [r["text"].strip() for r in shuffled(corpus.rows("banking77/test.jsonl.gz"))]
    judged = set(test)
    bank = [t for r in shuffled(corpus.rows("banking77/train.jsonl.gz")) if (t := r["text"].strip()) not in judged]
    other: Mapping[str, Callable[[], list[str]]] = {
        "queries": lambda: [r["text"] for r in corpus.rows("clinc150/train.jsonl.gz")],
        "arguments": lambda: sentences([r["text"] for r in corpus.rows("ukpconvarg1/arguments.jsonl.gz")]),
        "laws": lambda: sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")]),
        "rights": lambda: [r["text"][:160] for r in corpus.rows("udhr-langid/train.jsonl.gz")],
    }
    pool = bank[:300] + [t for read in other.values() for t in shuffled(read())[:525]]
    return written("selection", {"train": _texts(shuffled(pool)), "validation": _texts(bank[300:450]), "eval": _texts(test[:250])})
