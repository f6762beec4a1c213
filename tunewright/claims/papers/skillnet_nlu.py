"""Skills that a task switches on learn several tasks at once better than one dense model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KINDS = {
    "letters_list": ["letters"],
    "singular_to_plural": ["letters", "words"],
    "num_to_verbal": ["words"],
}
"""Three kinds of instructions, and the skills that each uses beside the general one."""
SKILLS = {"skillnet-nlu": {"skills": KINDS}}

CLAIM = Claim(
    paper="skillnet-nlu",
    says="Three kinds of instructions learnt together have a loss that is lower by at least 0.02 nats a token where "
    "each switches on its skills than in one dense model on the same rows.",
    task="induction",
    method=Arm(name="skillnet-nlu", methods=[SKILLS]),
    baselines=[Arm(name="dense", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    # none of the lab task's own rows, which named ones would join
    extra={"data": {"train": None, "eval": None}, "evaluation": {"metric": "loss", "rows": 200}},
    differs="three kinds of short instructions for a small causal model in the place of six tasks of language "
    "understanding for BERT; two skills; one rate for both; neither task-specific models nor a mixture of experts "
    "stands beside it",
)


def files(kinds: list[str], part: str) -> list[dict[str, Any]]:
    """Sources of some kinds, named by them, so that measured rows have their task too."""
    return [{"path": rows.induction((kind,), validation=40)[part], "name": kind} for kind in kinds]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers of new rows of all kinds, nats a token."""
    kinds = list(KINDS)
    data = {"train": files(kinds, "train"), "eval": files(kinds, "eval"), "validation": None}
    together = [{"name": "together", "budget": {"tokens": 24_000}, "train": {"learning_rate": 1e-3}}]
    return {
        arm.name: float(
            run.trial(arm.name, seed, data=data, stages=[{**together[0], "methods": arm.methods}]).tuned.target
        )
        for arm in run.claim.arms
    }
