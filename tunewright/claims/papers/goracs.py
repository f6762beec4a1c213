"""A group chosen as a whole by transport and gradients is of the kinds that are aimed at."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _kept

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

COUNT = 60
CLAIM = Claim(
    paper="goracs",
    says=(
        "The group of records of least transport distance to the target, less what gradients promise, is of the "
        "target's kinds and in its shares: of a pool in which one row in ten is of the two kinds that are aimed at, it "
        "keeps these. (What a model tuned on them gains is another claim.)"
    ),
    task="selection",
    method=Arm(
        name="goracs",
        methods=["full"],
        extra={"data": {"select": [{"goracs": {"keep": COUNT, "exchanges": 20, "candidates": 10}}]}},
    ),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="a pool of 600 texts of four kinds, states of a small language model, 20 exchanges among 10 candidates",
    **_kept.PASSING,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of texts of the two kinds among those kept; beside it without gradients, without exchanges, of got-d."""
    rng = random.Random(seed)
    asked = rng.sample(sorted({r["text"].strip() for r in corpus.rows("banking77/train.jsonl.gz")}), 90)
    argued = rng.sample(rows.sentences([r["text"] for r in corpus.rows("ukpconvarg1/arguments.jsonl.gz")]), 90)
    others = [
        *rng.sample([r["text"] for r in corpus.rows("clinc150/train.jsonl.gz")], 180),
        *rng.sample(rows.sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")]), 180),
        *rng.sample([r["text"][:160] for r in corpus.rows("udhr-langid/train.jsonl.gz")], 180),
    ]
    wanted = [*asked[:30], *argued[:30]]
    pairs = _kept.pool("goracs", [{"text": t} for t in wanted], [{"text": t} for t in others], seed)
    target = rows.written("kept", {"validation": [{"text": t} for t in [*asked[30:], *argued[30:]]]})["validation"]
    aimed = {"validation": [{"path": target, "name": "validation"}]}
    beside = {
        "distances alone": {"goracs": {"keep": COUNT, "gradient_weight": 0.0, "exchanges": 20, "candidates": 10}},
        "greedy alone": {"goracs": {"keep": COUNT, "exchanges": 0}},
        "got-d": {"got-d": {"keep": COUNT}},
    }
    return {
        "goracs": _kept.share(run, "goracs", seed, pairs, data=aimed),
        "random": _kept.by_chance(pairs, COUNT, seed),
        **{n: _kept.share(run, "random", seed, pairs, data={**aimed, "select": [s]}) for n, s in beside.items()},
    }
