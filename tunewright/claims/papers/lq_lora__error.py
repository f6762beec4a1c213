"""What the loss says of the error of a base in few bits: less with each part of LQ-LoRA."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.lq_lora import PARTS

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

READ, NEW = 64, 128
WHOLE: dict[str, Any] = {**PARTS, "average_bits": 3.13, "bits": [2, 3, 4], "data": "train", "samples": READ}
ARMS: dict[str, dict[str, Any]] = {
    "lq-lora": WHOLE,
    "rounded": {**WHOLE, "iterations": 0, "data": None},
    "unweighted": {**WHOLE, "data": None},
    "uniform": {**WHOLE, "bits": [3], "block_sizes": [64]},
}
CLAIM = Claim(
    paper="lq-lora",
    says="At 3.13 bits a weight, the error of an encoder's matrices, weighted by the Fisher information of rows "
    "drawn anew, is smaller by 2 % or more of the rounded weights' than where weights are only rounded, where errors "
    "are not weighted, and where all matrices have 3 bits in blocks of 64.",
    task="topics",
    method=Arm(name="lq-lora", methods=[{"lq-lora": WHOLE}]),
    baselines=[Arm(name=n, methods=[{"lq-lora": parts}]) for n, parts in ARMS.items() if n != "lq-lora"],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters, before training and with a fresh head; the paper reports perplexity; six "
    "candidates a matrix and ten turns; errors over that of the rounded weights",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Root of the weighted squared error of all matrices, over that of the rounded ones."""
    from tunewright.contract.batch import Batch
    from tunewright.methods.needs.fisher import diagonal_fisher, mean_loss
    from tunewright.models.quantised_low_rank import QuantisedLowRank
    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up

    far: dict[str, float] = {}
    for arm in ARMS:
        session = assemble(run.cut(run.recipe(arm, seed)))
        stage, provider = session.training_inputs(session.stages[0])
        context = provider.context
        sites = context.adapted.structure.linear_sites()
        rows = random.Random(f"{seed}/error").sample(context.source("train"), NEW)
        batches: list[Batch] = [context.task.collate([row], context.packed, seed=seed) for row in rows]
        with context.adapted.evaluating():
            F = diagonal_fisher(sites, lambda b: mean_loss(context, b), batches)  # noqa: B023 - used at once
        set_up(context.adapted, stage.methods, stage.plan, context.task.name, provider.statistics)
        total = 0.0
        for site in context.adapted.structure.linear_sites():
            change = context.adapted.deltas()[site.name]["lq-lora"]
            assert isinstance(change, QuantisedLowRank)
            left = site.matrix().detach() - change.matrix().detach()
            total += float((F[site.name] * left.square()).sum())
        far[arm] = total**0.5
    return {arm: value / far["rounded"] for arm, value in far.items()}
