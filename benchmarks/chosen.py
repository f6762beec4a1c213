"""Which rows help: `python -m benchmarks.chosen --data FOLDER [--only CORPUS] [--selector NAME] [--page]`.

Selectors compared on three corpora, each a pool of which a part is like the task, and a task with rows of its own to
aim at and to be measured on. A cell is one selector on one corpus: `tunewright compare --select` of it, of `random`
with the same share and of all rows, over one budget in tokens, each one's learning rate chosen by one rule on rows
held out, five seeds; the runs of the two baselines are made once. It is kept in benchmarks/chosen.json as soon as it
is done and not run again; what a selector refuses is kept too. `--page` writes docs/data.md from that file.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import cells as kept
from benchmarks import machine
from benchmarks.defaults_data import Rows, file_of

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "data.md"
SEEDS, THREADS, WORDS = 5, 1, 60
KEEP = "10%"
ALL, RANDOM = "none", f"random:keep={KEEP}"
STORIES = ("fiction", "ficlets")


@dataclass(frozen=True)
class Split:
    """A corpus as it is used: the rows to choose from, those like the task to aim at, and those to measure on."""

    pool: Rows
    aim: Rows
    evaluated: Rows


@dataclass(frozen=True)
class Corpus:
    """One of the corpora: `told` says in words what is chosen from and for; `tokens`: each run's budget."""

    name: str
    told: str
    model: str
    task: str
    metric: str
    tokens: int
    read: Callable[[Path], Split]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        for line in text:
            yield json.loads(line)


def _lines(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        return [line.strip() for line in text]


def _windows(text: str) -> list[str]:
    """Pieces of so many words each; what is left at the end of a document is left out."""
    words = text.split()
    return [" ".join(words[i : i + WORDS]) for i in range(0, len(words) - WORDS + 1, WORDS)]


def _drawn(rows: Rows, count: int, seed: int = 0) -> Rows:
    """So many of the rows, in a random order."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows[:count]


def _genres(folder: Path) -> Split:
    def pieces(part: str, *genres: str) -> Rows:
        of = _rows(folder / "masc-genres" / f"{part}.jsonl.gz")
        return [{"text": w} for d in of if not genres or d["genre"] in genres for w in _windows(d["text"])]

    return Split(
        _drawn(pieces("train"), 2400), _drawn(pieces("valid", *STORIES), 100), _drawn(pieces("test", *STORIES), 120)
    )


def _reviews(folder: Path) -> Split:
    def sentences(part: str, products: bool = False) -> Rows:
        of = _rows(folder / "sentiment-domains" / f"{part}.jsonl.gz")
        return [
            {"text": r["text"], "label": ("bad", "good")[int(r["label"])]}
            for r in of
            if not products or r["domain"].startswith("product:")
        ]

    held = _drawn(sentences("valid", products=True), 400)
    return Split(
        _drawn(sentences("train"), 2400), held[:100], held[100:] + _drawn(sentences("test", products=True), 300)
    )


def _laws(folder: Path) -> Split:
    def laws(part: str) -> Rows:
        of = _rows(folder / "german-laws" / f"{part}.jsonl.gz")
        return [{"text": w} for d in of for w in _windows(d["text"])]

    articles = [{"text": w} for line in _lines(folder / "wikitext2" / "valid.txt.gz") for w in _windows(line)]
    pool = _drawn(laws("train"), 600) + _drawn(articles, 1800)
    return Split(_drawn(pool, len(pool)), _drawn(laws("valid"), 100), _drawn(laws("test"), 120))


CORPORA = (
    Corpus(
        "genres",
        "pieces of sixty words in twenty genres of American English (masc-genres); the task: fiction",
        "nano",
        "text-generation",
        "loss",
        40_000,
        _genres,
    ),
    Corpus(
        "reviews",
        "sentences of film reviews, pros and cons, and product reviews, good or bad (sentiment-domains); the task: "
        "those of products",
        "minilm-l6",
        "text-classification",
        "accuracy",
        12_000,
        _reviews,
    ),
    Corpus(
        "laws",
        "pieces of sixty words, one in four of German laws (german-laws), the others of English articles (wikitext2); "
        "the task: German laws",
        "nano",
        "text-generation",
        "loss",
        40_000,
        _laws,
    ),
)
SELECTORS = (
    *(f"{name}:keep={KEEP}" for name in ("dsir", "quality-classifier", "rds-plus", "got-d", "goracs", "less")),
    *(f"{name}:keep={KEEP}" for name in ("k-center", "instructmining", "dealrec")),
    "perplexity:high=0.1",
    "perplexity:low=0.45:high=0.55",
    "perplexity:low=0.9:high=1.0",
    f"near-duplicate+random:keep={KEEP}",
    f"quality-rules+random:keep={KEEP}",
)
"""What is compared beside the two baselines, each keeping a tenth of the pool: what aims at the task first."""


def cells() -> Iterable[tuple[Corpus, str]]:
    return ((corpus, selector) for selector in SELECTORS for corpus in CORPORA)


def recipe_file(corpus: Corpus, source: Path, folder: Path) -> Path:
    """The recipe of a corpus, with its rows beside it, as a user would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    split = corpus.read(source)
    tree: dict[str, Any] = {
        "model": corpus.model,
        "task": corpus.task,
        "data": {
            "train": file_of(folder / "pool", split.pool).name,
            "validation": file_of(folder / "aim", split.aim).name,
            "eval": file_of(folder / "evaluated", split.evaluated).name,
        },
        "methods": ["lora"],
        "budget": {"tokens": corpus.tokens},
        "train": {"precision": "float32", "threads": THREADS},
        "measurement": {"metric": corpus.metric, "strengths": [1.0], "few_shot": 0, "drift_sequences": 8},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


def run_cell(corpus: Corpus, selector: str, source: Path, folder: Path) -> dict[str, Any]:
    """The figures of a selector and of the baselines; `refused` where the selector says that it does not serve here."""
    from tunewright.compare.arms import selecting_arms
    from tunewright.compare.comparison import compare
    from tunewright.errors import TunewrightError
    from tunewright.recipe import Recipe

    recipe, began = Recipe.load(recipe_file(corpus, source, folder)), time.monotonic()
    cell: dict[str, Any] = {"corpus": corpus.name, "selector": selector}
    names = (RANDOM, ALL, selector)
    try:
        arms = selecting_arms(",".join(names), recipe, recipe.stages[0].budget)
        made = compare(recipe, arms, seeds=SEEDS, tune=True, out=folder / "compare", workers=1, quiet=True)
    except TunewrightError as error:
        return cell | {"refused": error.what}
    shown = dict(zip(names, (kept.targets_of(made.arm(arm.name)) for arm in arms), strict=True))
    if (bad := next((r.error for r in made.arm(arms[-1].name).runs if r.status != "finished"), None)) is not None:
        return cell | {"refused": bad}
    return cell | {
        "base": made.base_target,
        "figures": shown[selector],
        "random": shown[RANDOM],
        "all": shown[ALL],
        "seconds": round(time.monotonic() - began),
        "processor": machine.describe("float32", THREADS)["processor"],
    }


def main() -> None:
    from benchmarks.chosen_page import page

    kept.main(__doc__, ("corpus", "selector"), RESULTS, (PAGE, page), cells(), run_cell)


if __name__ == "__main__":
    main()
