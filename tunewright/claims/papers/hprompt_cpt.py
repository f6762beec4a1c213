"""Read on behind prompts made of each row, an encoder loses less of domains that it has not read than plainly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _reading_on as reading

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS = 30_000
"""Read of each domain."""
PROMPTED = Arm(name="hprompt-cpt", methods=["hprompt-cpt"])

CLAIM = Claim(
    paper="hprompt-cpt",
    says="After three domains one after the other, the loss of a fourth that was never read is lower by at least 0.02 "
    "nats a masked token where rows were read behind prompts of a network, held to agree and to disagree, than where "
    "the encoder read on plainly.",
    task="topics",
    method=PROMPTED,
    baselines=[Arm(name="plain", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the loss of masked words of the unread domain, where the paper tunes a task of each domain (3.57 and 3.4 "
    "points); an encoder of 2.6M parameters; one rate; the forms of network and losses are ours",
)


def domains() -> list[str]:
    """Files of texts: customers' questions, German law, arguments."""
    arguments = rows.sentences([r["text"] for r in corpus.rows("ukpconvarg1/arguments.jsonl.gz")])
    found = (("asked", reading.domain_texts()), ("law", reading.other_texts()), ("argued", arguments))
    return [reading.texts(f"hprompt-{name}", texts) for name, texts in found]


def unread() -> str:
    """A file of 200 pieces of web pages and encyclopaedia articles."""
    return rows.written("hprompt-unread", {"eval": [{"text": t} for t in rows.general(200, longest=300)]})["eval"]


def loss_of(run: ClaimRun, arm: str, seed: int) -> float:
    """Loss of the unread domain after all others, nats a masked token."""
    stages = [
        {
            "name": f"domain-{i}",
            "data": {"train": [{"path": path, "name": "train", "format": "text"}], "truncation": "split"},
            "budget": {"tokens": TOKENS},
            "methods": run.arm(arm).methods,
            **({"start": f"stages.domain-{i - 1}", "carry": "frozen"} if i else {}),
        }
        for i, path in enumerate(domains())
    ]
    data = {"eval": [{"path": unread(), "name": "eval", "format": "text"}], "validation": None, "truncation": "split"}
    train = {"learning_rate": 5e-4, "batch_tokens": 512}
    record = run.trial(
        arm,
        seed,
        model="nano-encoder",
        task="fill-mask",
        data={**data, "train": [{"path": domains()[0], "name": "train", "format": "text"}]},
        train=train,
        stages=stages,
        evaluation={"metric": "loss"},
    )
    return float(record.tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the unread domain by arm."""
    return {arm.name: loss_of(run, arm.name, seed) for arm in run.claim.arms}
