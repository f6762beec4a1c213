"""Texts of the domain and then of the task, read before few labels are learnt, give better accuracy; others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _reading_on as reading

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

DOMAIN, TASK = 40_000, 20_000

CLAIM = Claim(
    paper="dapt",
    says="An encoder that reads on, texts of the domain and then the task's own, is more accurate after fine-tuning on "
    "few labelled rows than one that does not, and than one that reads as much of another domain.",
    task="topics",
    method=Arm(name="dapt-tapt", methods=["full"]),
    baselines=[Arm(name="plain", methods=["full"]), Arm(name="other-domain", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="an encoder of 2.6M parameters, queries of ten domains, 60,000 tokens read instead of gigabytes; German "
    "law as the other domain; rates taken once",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the task's 300 rows after fine-tuning on 200."""
    own, domain, other = (
        reading.texts(name, found())
        for name, found in (
            ("task-texts", reading.task_texts),
            ("domain-texts", reading.domain_texts),
            ("other-texts", reading.other_texts),
        )
    )
    models = {
        "dapt-tapt": reading.read_on(run, "dapt-tapt", seed, [(domain, DOMAIN), (own, TASK)]),
        "plain": "nano-encoder",
        "other-domain": reading.read_on(run, "other-domain", seed, [(other, DOMAIN + TASK)]),
    }
    return {arm: reading.accuracy(run, arm, seed, model) for arm, model in models.items()}
