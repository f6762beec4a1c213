"""From a small corpus and texts written after it a model learns more than from the corpus again, for as many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "synthetic-bootstrapped-pretraining"
DOCUMENTS, ORACLE, NEW, LONGEST, RATE = 400, 3200, 100, 400, 3e-3
"""Documents of the corpus, of the oracle's and of those that are measured; letters of each; one rate for all."""
FIRST, RELATES, JOINT = 150_000, 150_000, 400_000
"""Tokens of the synthesizer's two stages, and of what is compared."""

CLAIM = Claim(
    paper=METHOD,
    says=(
        "Read beside texts that a synthesizer of the same size wrote after its documents, a small corpus leaves a "
        "lower loss on new documents than read alone again and again, for as many tokens. (That it reaches much of "
        "what eight times as many documents give is run beside it, and not judged.)"
    ),
    task="domain",
    method=Arm(name="joint", methods=["full"], uses=["related-pairs", METHOD]),
    baselines=[Arm(name="repetition", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="400 medical answers and a model of 0.2M parameters in the place of billions of both; neighbours by words; "
    "the synthesizer's own tokens are not counted (the paper does not either); one rate, not tuned",
)


def files() -> dict[str, str]:
    """Files of the small corpus, the large one, and new documents."""
    texts = list(dict.fromkeys(r["answer"][:LONGEST] for r in rows.shuffled(corpus.rows("medquad/train.jsonl.gz"))))
    new = list(dict.fromkeys(r["answer"][:LONGEST] for r in rows.shuffled(corpus.rows("medquad/test.jsonl.gz"))))
    parts = {"corpus": texts[:DOCUMENTS], "oracle": texts[:ORACLE], "new": [t for t in new if t not in texts][:NEW]}
    return rows.written("bootstrapped", {n: [{"text": t} for t in some] for n, some in parts.items()})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new documents after each way of reading."""
    found = files()
    train, oracle = ([{"path": found[n], "name": "train"}] for n in ("corpus", "oracle"))
    first = _fresh.stage("first", train, FIRST, RATE)
    relates = _fresh.stage("relates", train, RELATES, RATE, start="stages.first")
    relates["data"] = {**relates["data"], "synthesize": [{"related-pairs": {"least": 0.1}}]}
    joint = _fresh.stage("joint", train, JOINT, RATE, start="base")
    use: dict[str, Any] = {"model": "stages.relates", "times": 2.0, "max_new_tokens": 128}
    joint["data"] = {**joint["data"], "synthesize": [{METHOD: use}]}
    ways = {
        "joint": ("joint", [first, relates, joint]),
        "repetition": ("repetition", [_fresh.stage("joint", train, JOINT, RATE)]),
        "oracle": ("repetition", [_fresh.stage("joint", oracle, JOINT, RATE)]),
    }
    out = {}
    for name, (arm, stages) in ways.items():
        data = {"train": train, "eval": [{"path": found["new"], "name": "eval"}], "validation": None, "chat": False}
        trial = run.trial(arm, seed, model=_fresh.model(seed), data=data, stages=stages)
        out[name] = float(trial.tuned.target)
    return out
