"""The linear rule, as far as its indicators can be had here, puts answers that fit before answers that do not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus
from tunewright.claims.papers import _kept

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

COUNT = 80
CLAIM = Claim(
    paper="instructmining",
    says=(
        "A linear rule over natural-language indicators selects instructions of high quality: of rows of which half "
        "have another row's answer, it keeps those whose answer fits. (What a model tuned on them gains is not tested.)"
    ),
    task="selection",
    method=Arm(
        name="instructmining", methods=["full"], extra={"data": {"select": [{"instructmining": {"keep": COUNT}}]}}
    ),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs=(
        "the authors' rule without its reward-model score, embeddings of a small language model; quality is whether "
        "the answer is the row's own"
    ),
    **_kept.PASSING,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of rows with their own answer among those kept; beside it what the loss alone keeps."""
    rng = random.Random(seed)
    found = [r for part in ("test", "valid") for r in corpus.rows(f"dolly-short/{part}.jsonl.gz")]
    drawn = rng.sample([{"prompt": r["instruction"], "completion": r["response"]} for r in found], 400)
    answers = [r["completion"] for r in drawn[200:]]
    moved = [{**r, "completion": a} for r, a in zip(drawn[200:], [*answers[1:], answers[0]], strict=True)]
    pairs = _kept.pool("instructmining", drawn[:200], moved, seed)
    loss = {"select": [{"instructmining": {"keep": COUNT, "coefficients": {"loss": 1.0}}}]}
    return {
        "instructmining": _kept.share(run, "instructmining", seed, pairs),
        "random": _kept.by_chance(pairs, COUNT, seed),
        "loss alone": _kept.share(run, "random", seed, pairs, data=loss),
    }
