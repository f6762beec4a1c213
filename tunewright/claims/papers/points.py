"""The fifth of the rows of lowest perplexity under the base holds few spoilt ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _kept

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KEPT = 0.2
CLAIM = Claim(
    paper="points",
    says=(
        "Keeping the rows of lowest perplexity is a cheap filter: of sentences of which half have their words in a "
        "random order, those that are kept are sound ones. (What a model trained on them gains is not tested.)"
    ),
    task="selection",
    method=Arm(
        name="perplexity", methods=["full"], extra={"data": {"select": [{"perplexity": {"low": 0.0, "high": KEPT}}]}}
    ),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="sentences and a small language model in the place of captions and a vision-language model",
    **_kept.PASSING,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of sound sentences among those that are kept."""
    rng = random.Random(seed)
    found = rows.sentences([r["text"] for r in corpus.rows("ukpconvarg1/arguments.jsonl.gz")])
    drawn = rng.sample([s for s in found if 8 <= len(s.split()) <= 30], 400)
    spoilt = [" ".join(rng.sample(s.split(), len(s.split()))) for s in drawn[200:]]
    pairs = _kept.pool("points", [{"text": s} for s in drawn[:200]], [{"text": s} for s in spoilt], seed)
    return {
        "perplexity": _kept.share(run, "perplexity", seed, pairs),
        "random": _kept.by_chance(pairs, round(KEPT * len(pairs)), seed),
    }
