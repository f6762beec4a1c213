"""Gradients of a hypernetwork that reads numbers at constant length vary less with the numbers."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS, NUMBERS = 16, (0.05, 0.25, 0.5, 0.75, 1.0)
PLAIN: dict[str, Any] = {"encoding": "none", "additive": False}
CLAIM = Claim(
    paper="mip-hypernetworks",
    says="Before training, the gradient's length in the weights of a network that writes low-rank changes varies over "
    "five numbers from 0.05 to 1 by at least 0.2 of its mean less (standard deviation over mean) where numbers are "
    "read at constant length and what is written is added to a learnt change than in a plain network.",
    task="topics",
    method=Arm(name="mip", methods=["mip-hypernetworks"]),
    baselines=[Arm(name="plain", methods=[{"mip-hypernetworks": PLAIN}])],
    metric="measured",
    direction="lower",
    smallest=0.2,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="changes of a small encoder are written and not all weights of a network; gradients of the same 16 rows at "
    "the start; the paper shows variances along training",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Standard deviation over mean of the gradient's lengths."""
    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up

    spread: dict[str, float] = {}
    for arm, fields in (("mip", {}), ("plain", PLAIN)):
        lengths = []
        for number in NUMBERS:
            methods = [{"mip-hypernetworks": {**fields, "numbers": {"train": [number]}}}]
            session = assemble(run.cut(run.recipe(arm, seed, methods=methods)))
            stage, provider = session.training_inputs(session.stages[0])
            context = provider.context
            set_up(context.adapted, stage.methods, stage.plan, context.task.name, provider.statistics)
            rows = random.Random(f"{seed}/gradients").sample(context.source("train"), ROWS)
            batch = context.task.collate(rows, context.packed, seed=seed)
            with context.adapted.evaluating():
                made = context.task.loss(context.task.forward(context.adapted.model, batch), batch)
                (made.value * batch.weights).sum().backward()
            network: Any = next(b.state for b in stage.methods if b.name == "mip-hypernetworks").get_submodule(
                "network"
            )
            squares = [float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None]
            lengths.append(sum(squares) ** 0.5)
        spread[arm] = statistics.pstdev(lengths) / statistics.mean(lengths)
    return spread
