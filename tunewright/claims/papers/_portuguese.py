"""What claims about a T5 in a new language share: one that read English, Portuguese texts, and a task of few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _chosen
from tunewright.claims.papers import _encoder_decoders as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

READ, TASK, FEW = 60_000, 12_000, 150
"""Tokens that are read in each language and learnt of the task, and the task's rows."""
RATES = (1e-3, 3e-3)


def verses(part: str, language: str) -> list[str]:
    """Verses of Genesis of a length that a row holds."""
    found = corpus.rows(f"genesis-multilingual/{part}.jsonl.gz")
    return [r["text"] for r in found if r["lang"].startswith(language) and 40 <= len(r["text"]) <= 200]


def to_end(verse: str) -> dict[str, str]:
    """The task: how does a verse end?"""
    words = verse.split()
    half = len(words) // 2
    return {"prompt": " ".join(words[:half]), "completion": " ".join(words[half:])}


def texts() -> tuple[list[str], list[dict[str, str]], list[dict[str, str]]]:
    """Portuguese verses to read, the task's rows, and those to choose by and to judge by in turn."""
    own = rows.shuffled(verses("train", "pt"))
    judged = _chosen.in_turn(verses("valid", "pt"), verses("test", "pt"))
    return own[FEW:], [to_end(v) for v in own[:FEW]], [to_end(v) for v in judged]


def english(run: ClaimRun, arm: str, seed: int) -> str:
    """The folder of a T5 that has read English."""
    fresh = lab.drawn("t5", [*lab.english(), *texts()[0]], seed)
    return gone_on(run, arm, seed, fresh, lab.reading("english", lab.english(), READ, "span-corruption"))


def gone_on(run: ClaimRun, arm: str, seed: int, model: str, read: dict[str, Any]) -> str:
    """The folder of a model after a stage of reading."""
    return lab.folder(run, lab.recipe(run, arm, seed, model, [read], texts()[2]))


def task(run: ClaimRun, arm: str, seed: int, model: str, tokens: int = TASK) -> float:
    """Loss of other verses' ends after the task, at the better of two rates, which other rows choose."""
    _, few, judged = texts()
    stages = [lab.learning("task", few, tokens, rate) for rate in RATES]
    return _chosen.lowest(_chosen.finished(run, lab.recipe(run, arm, seed, model, [s], judged)) for s in stages)
