"""What claims about reading on share: an encoder that goes on with masked words of some texts, as a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims import merging
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LABELLED = 200
"""Rows that the task is learnt from, of the 2,000 of the lab's `topics`; the texts of all of them are there."""


def texts(name: str, found: Sequence[str]) -> str:
    """A file of texts in an order drawn once."""
    return rows.written(name, {"train": [{"text": t} for t in rows.shuffled(list(dict.fromkeys(found)))]})["train"]


def task_texts() -> list[str]:
    """The texts of the rows of `topics`, without their labels."""
    file = Path(rows.topics()["train"])
    return [str(json.loads(line)["text"]) for line in file.read_text(encoding="utf-8").splitlines()]


def domain_texts() -> list[str]:
    """Questions to banks and hotels."""
    names = ("banking77/train.jsonl.gz", "nlupp/folds.jsonl.gz")
    return [str(r["text"]).strip() for name in names for r in corpus.rows(name)]


def other_texts() -> list[str]:
    """Sentences of German law: texts of another domain."""
    return rows.sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")])


def recipe(
    run: ClaimRun,
    arm: str,
    seed: int,
    read: Sequence[tuple[str, int]],
    *,
    model: Any = "nano-encoder",
    judged: Mapping[str, Any] | None = None,
    **data: Any,
) -> Any:
    """The recipe of an arm that reads files one after the other, so many tokens of each. `data`: of every stage;
    `judged`: what of the whole recipe's data differs.
    """
    stages = [
        {
            "name": f"read-{i + 1}",
            "data": {"train": [{"path": path, "name": "train", "format": "text"}], **data},
            "budget": {"tokens": tokens},
        }
        for i, (path, tokens) in enumerate(read)
    ]
    train = {"learning_rate": 5e-4, "batch_tokens": 512}
    return run.recipe(
        arm, seed, model=model, task="fill-mask", train=train, stages=stages, **({"data": judged} if judged else {})
    )


def read_on(run: ClaimRun, arm: str, seed: int, read: Sequence[tuple[str, int]]) -> str:
    """The folder of the lab's encoder after it has read files one after the other."""
    return merging.folder_of(merging.finished(run, recipe(run, arm, seed, read)).folder)


def accuracy(run: ClaimRun, arm: str, seed: int, model: str) -> float:
    """Accuracy of a model that learns the task from `LABELLED` rows."""
    few = {"train": [{"name": "train", "limit": LABELLED}]}
    return float(run.trial(arm, seed, model=model, data=few).tuned.target)
