"""Rows of most negative transport gradient are those of the target's kind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _kept

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

COUNT = 100
CLAIM = Claim(
    paper="got-d",
    says=(
        "The gradient of the optimal-transport distance tells which rows pull a pool towards a target: of a pool in "
        "which one row in eight is of the target's kind, it keeps these. (What a warm-up on them gains is not tested.)"
    ),
    task="selection",
    method=Arm(name="got-d", methods=["full"], extra={"data": {"select": [{"got-d": {"keep": COUNT}}]}}),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="a pool of 800 texts of five kinds and embeddings of a small language model",
    **_kept.PASSING,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of bank customers' messages among those kept; beside it what hashed n-grams (dsir) keep."""
    rng = random.Random(seed)
    bank = rng.sample(sorted({r["text"].strip() for r in corpus.rows("banking77/train.jsonl.gz")}), 2 * COUNT)
    others = [
        *rng.sample([r["text"] for r in corpus.rows("clinc150/train.jsonl.gz")], 200),
        *rng.sample(rows.sentences([r["text"] for r in corpus.rows("ukpconvarg1/arguments.jsonl.gz")]), 200),
        *rng.sample(rows.sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")]), 150),
        *rng.sample([r["text"][:160] for r in corpus.rows("udhr-langid/train.jsonl.gz")], 150),
    ]
    pairs = _kept.pool("got-d", [{"text": t} for t in bank[:COUNT]], [{"text": t} for t in others], seed)
    target = rows.written("kept", {"validation": [{"text": t} for t in bank[COUNT:]]})["validation"]
    aimed = {"validation": [{"path": target, "name": "validation"}]}
    dsir = {**aimed, "select": [{"dsir": {"keep": COUNT, "smoothing": 0.1}}]}
    return {
        "got-d": _kept.share(run, "got-d", seed, pairs, data=aimed),
        "random": _kept.by_chance(pairs, COUNT, seed),
        "dsir": _kept.share(run, "random", seed, pairs, data=dsir),
    }
