"""What claims about several finished adapters share: three kinds of instructions, an adapter of each, rows that mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KINDS = ("letters_list", "singular_to_plural", "num_to_verbal")
GATES = 24_000
"""Tokens that gates learn from, in batches of 128: about 190 steps. An adapter has 10,000."""
LOSS: dict[str, Any] = {
    "data": {"train": None, "eval": None, "validation": None},  # the lab task's own rows, which named ones would join
    "evaluation": {"metric": "loss", "rows": 200},
    "keep": [],
    "budget": {"tokens": 10_000},
}


def _file(kind: str, part: str) -> list[dict[str, str]]:
    return [{"path": rows.induction((kind,), validation=40)[part], "name": kind}]


def own(kind: str) -> dict[str, Any]:
    """The data of one kind."""
    return {"train": _file(kind, "train"), "eval": _file(kind, "eval")}


def together(evaluated: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The data of all kinds, judged on their rows or on others."""
    judged = evaluated or [f for kind in KINDS for f in _file(kind, "eval")]
    return {"train": [f for kind in KINDS for f in _file(kind, "train")], "eval": judged}


def mixed() -> list[dict[str, str]]:
    """Conversations whose two answers are of two kinds, each kind as often the first as the second."""
    of = {k: [json.loads(line) for line in Path(_file(k, "eval")[0]["path"]).open(encoding="utf-8")] for k in KINDS}
    pairs = [
        (of[a][i], of[b][-1 - i])
        for i in range(min(len(r) for r in of.values()) // 2)
        for a in KINDS
        for b in KINDS
        if a != b
    ]
    said = (("user", "prompt"), ("assistant", "completion"))
    talks = [[{"role": role, "content": row[key]} for row in pair for role, key in said] for pair in pairs[:198]]
    return [{"path": rows.written("two-kinds", {"eval": [{"messages": t} for t in talks]})["eval"], "name": "mixed"}]


def adapters(run: ClaimRun, arm: str, seed: int) -> dict[str, Any]:
    """The record of a finished adapter of each kind, with its folder."""
    return {k: run.trial(arm, seed, keep_artefacts=True, data=own(k)) for k in KINDS}


def gated(run: ClaimRun, seed: int, folders: dict[str, Any]) -> Any:
    """The record of a run in which gates learnt to choose among these adapters, with its folder; judged on
    conversations.
    """
    meteora = {"meteora": {"adapters": {k: str(r.folder) for k, r in folders.items()}}}
    stage = {"name": "gates", "methods": [meteora], "budget": {"tokens": GATES}}
    return run.trial("meteora", seed, keep_artefacts=True, data=together(mixed()), stages=[stage])
