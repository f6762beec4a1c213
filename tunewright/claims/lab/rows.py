"""The lab tasks' rows, drawn from the data sets by a fixed seed and written once as files that a recipe can name.

Files lie in the cache folder under the hash of their content: the same rows are the same file, and a run's key follows
them.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.claims.lab import corpus, procedural
from tunewright.files.cache import cache_folder

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


def pictures(name: str, part: str, x: np.ndarray, y: np.ndarray) -> str:
    """Write pictures [n, 28, 28] of digits with their classes [n] as npz, under the hash of their content; returns
    the path.
    """
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:16]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, y=y, names=np.array([str(i) for i in range(10)]))
    return _place(cache_folder() / "lab" / f"{name}-{digest}" / f"{part}.npz", buffer.getvalue())


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
    programs = procedural.make([partial(procedural.program, steps=2), procedural.list_function], 2300, SEED)
    return written("arithmetic", cut(programs, eval=200, validation=100, train=2000))


INDUCTION = (
    "first_word_letter",
    "letters_list",
    "singular_to_plural",
    "sum",
    "num_to_verbal",
    "larger_animal",
    "second_word_letter",
    "sentiment",
)
"""The kinds of instruction-induction that a small model can learn: of the others, translations and rhymes need a
vocabulary it has not.
"""


def _instruction(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": f"{row['instruction'].strip().rstrip(':')}: {row['input']}", "completion": row["output"]}


@cache
def induction(kinds: tuple[str, ...] = INDUCTION, validation: int = 120) -> dict[str, str]:
    """Instructions with short answers; eval from the data set's own test rows."""
    name = "induction-" + hashlib.sha256(" ".join(kinds).encode()).hexdigest()[:6]
    train = [
        _instruction(r) for r in shuffled(corpus.rows("instruction-induction/train.jsonl.gz")) if r["task"] in kinds
    ]
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
        rows = [
            r
            for r in shuffled(corpus.rows(f"clinc150/{file}.jsonl.gz"))
            if r["domain"] != "oos" and r["text"] not in taken
        ][:size]
        taken |= {r["text"] for r in rows}
        out[part] = [{"text": r["text"], "label": r["domain"].replace("_", " ")} for r in rows]
    return written("topics", out)


LEVELS: dict[str, tuple[str, ...]] = {
    "banking": ("balance", "bill due", "pay bill", "transfer"),
    "credit cards": ("credit limit", "credit score", "new card", "rewards balance"),
    "kitchen and dining": ("calories", "cook time", "meal suggestion", "recipe"),
    "travel": ("book flight", "book hotel", "flight status", "lost luggage"),
    "work": ("insurance", "payday", "pto balance", "taxes"),
}
"""Five domains of clinc150, and four of the intents of each."""


@cache
def levels() -> dict[str, str]:
    """Queries of those intents, half of them called by the domain (`level`: coarse), half by the intent (fine)."""
    out: dict[str, Rows] = {}
    of = {fine: coarse for coarse, those in LEVELS.items() for fine in those}
    for part, (file, size) in {"train": ("train", 2000), "validation": ("valid", 200), "eval": ("test", 400)}.items():
        named = [
            (r["text"], fine)
            for r in shuffled(corpus.rows(f"clinc150/{file}.jsonl.gz"))
            if (fine := r["intent"].replace("_", " ")) in of
        ][:size]
        out[part] = [
            {"text": text, "label": fine, "level": "fine"}
            if i % 2
            else {"text": text, "label": of[fine], "level": "coarse"}
            for i, (text, fine) in enumerate(named)
        ]
    return written("levels", out)


@cache
def digits(angle: float = 90.0, held: int = 50_000) -> dict[str, str]:
    """MNIST turned by a right angle: the base saw the first `held` training pictures upright, so these are others.

    `keep`: upright test pictures.
    """
    folder = corpus.data_folder() / "mnist"
    train, test = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    turns = round(angle / 90)
    name = f"digits-{angle:g}"
    turned, rest = np.rot90(train["x"][held:], turns, axes=(1, 2)), train["y"][held:]
    return {
        "train": pictures(name, "train", turned[:2000], rest[:2000]),
        "validation": pictures(name, "validation", turned[2000:2300], rest[2000:2300]),
        "eval": pictures(name, "eval", np.rot90(test["x"][:400], turns, axes=(1, 2)), test["y"][:400]),
        "keep": pictures(name, "keep", test["x"][400:600], test["y"][400:600]),
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
        return [
            {
                "prompt": r["prompt"],
                "chosen": r["completion"],
                "rejected": rng.choice([x for x in labels if x != r["completion"]]),
            }
            for r in rows
        ]

    return written("preferences", {"train": pairs("train"), "validation": pairs("validation"), "eval": pairs("test")})


def sentences(texts: Sequence[str], shortest: int = 60, longest: int = 160) -> list[str]:
    """Pieces of texts between two lengths in characters, cut after a sentence's end or a line."""
    pieces = [" ".join(s.split()) for t in texts for s in re.split(r"(?<=[.;:!?])\s+|\n", t)]
    return list(dict.fromkeys(s for s in pieces if shortest <= len(s) <= longest))


def _texts(rows: Sequence[str]) -> Rows:
    return [{"text": t} for t in rows]


@cache
def domain() -> dict[str, str]:
    """German law, a second language and domain: plain text, split by document as the data set is."""
    out, taken = dict[str, Rows](), set[str]()
    for part, file, size in (("eval", "test", 250), ("validation", "valid", 150), ("train", "train", 3000)):
        pieces = sentences([r["text"] for r in corpus.rows(f"german-laws/{file}.jsonl.gz")])
        prose = [s for s in pieces if s[0] not in "#!|:*[" and s not in taken]
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
    return written(
        "selection", {"train": _texts(shuffled(pool)), "validation": _texts(bank[300:450]), "eval": _texts(test[:250])}
    )


def general(count: int, longest: int = 400, seed: int = SEED) -> list[str]:
    """Beginnings of training documents of the nano bases' corpus: web pages and encyclopaedia articles, half of each,
    none of them sharing 13 words with the quickstart's kept text."""
    never = corpus.ngrams(corpus.QUICKSTART_KEEP.read_text(encoding="utf-8"))
    web = (r["text"] for r in shuffled(corpus.rows("c4-web/train.jsonl.gz"), seed))
    articles = (" ".join(t.split()) for t in shuffled(list(corpus.wikitext(corpus.data_folder())), seed))

    def some(texts: Iterable[str]) -> list[str]:
        usable = (t for t in texts if len(t) >= longest and not corpus.is_held(t) and not corpus.ngrams(t) & never)
        return [t[:longest].rpartition(" ")[0] for t in islice(usable, count // 2)]

    return [t for pair in zip(some(web), some(articles), strict=True) for t in pair]


@cache
def calibration() -> dict[str, str]:
    """32 pieces of general text other than what is kept: what methods look at before training, not what is judged."""
    return written("calibration", {"calibration": _texts(general(32))})


@cache
def domain_replay() -> dict[str, str]:
    """The rows of `domain`, and general training text to replay."""
    return {**domain(), **written("replay", {"replay": _texts(general(160))})}


DOMAINS = (
    "auto and commute",
    "banking",
    "credit cards",
    "home",
    "kitchen and dining",
    "meta",
    "small talk",
    "travel",
    "utility",
    "work",
)
"""The classes of `topics` and `classes`, in the order in which they arrive."""


@cache
def classes() -> dict[str, str]:
    """Queries of ten domains (as `topics`), the training rows of two domains a stage: train-1 ... train-5."""
    parts = topics()
    rows = [json.loads(line) for line in Path(parts["train"]).read_text(encoding="utf-8").splitlines()]
    each = {
        f"train-{i // 2 + 1}": [r for r in rows if r["label"] in DOMAINS[i : i + 2]] for i in range(0, len(DOMAINS), 2)
    }
    return {**parts, **written("classes", each)}


@cache
def halves() -> dict[str, str]:
    """`topics`, and its training and eval rows of the first five domains and of the others: train-1, train-2,
    eval-1, eval-2.
    """
    parts = topics()
    out: dict[str, Rows] = {}
    for part in ("train", "eval"):
        rows = [json.loads(line) for line in Path(parts[part]).read_text(encoding="utf-8").splitlines()]
        for i, labels in enumerate((DOMAINS[:5], DOMAINS[5:]), 1):
            out[f"{part}-{i}"] = [r for r in rows if r["label"] in labels]
    return {**parts, **written("halves", out)}


@cache
def unequal(ratio: int = 100, small: int = 30) -> dict[str, str]:
    """German law, and Genesis in Finnish: `small` lines of it, a hundredth of the sentences.

    Judged on as many of each.
    """
    german = domain()
    lines: dict[str, list[str]] = {}
    for file in ("train", "valid", "test"):
        verses = dict.fromkeys(
            r["text"] for r in corpus.rows(f"genesis-multilingual/{file}.jsonl.gz") if r["lang"].startswith("fi")
        )
        lines[file] = shuffled([t for t in verses if len(t) >= 40 and not any(t in taken for taken in lines.values())])

    def law(part: str, size: int) -> Rows:
        return [json.loads(line) for line in Path(german[part]).read_text(encoding="utf-8").splitlines()][:size]

    return written(
        "unequal",
        {
            "large": law("train", ratio * small),
            "small": _texts(lines["train"][:small]),
            "validation": law("validation", 75) + _texts(lines["valid"][:75]),
            "eval": law("eval", 125) + _texts(lines["test"][:125]),
        },
    )


@cache
def translation(pairs: int = 200) -> dict[str, str]:
    """English and Japanese sentences: `pairs` of them to learn translation from, half each way, and `text`,
    Japanese alone, from other pairs.
    """
    names = {"en": "English", "ja": "Japanese"}

    def row(r: Mapping[str, Any], source: str, goal: str) -> dict[str, Any]:
        return {"prompt": f"Translate this from {names[source]} to {names[goal]}: {r[source]}", "completion": r[goal]}

    def both(rows: Sequence[Mapping[str, Any]]) -> Rows:
        return [row(r, *(("en", "ja") if i % 2 else ("ja", "en"))) for i, r in enumerate(rows)]

    test, valid, train = (
        [
            {k: (r[k].replace(" ", "") if k == "ja" else r[k]) for k in names}
            for r in shuffled(corpus.rows(f"tanaka-enja/{part}.jsonl.gz"))
        ]
        for part in ("test", "valid", "train")
    )
    known = {r[k] for r in (*test, *valid) for k in names}
    free = [r for r in train if not known & set(r.values())]
    parts = {"eval": both(test[:250]), "validation": both(valid[:100]), "train": both(free[:pairs])}
    return written("translation", {**parts, "text": _texts([r["ja"] for r in free[pairs : pairs + 2000]])})
