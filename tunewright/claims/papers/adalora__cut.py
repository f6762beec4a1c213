"""Triplets of low importance can be cut with less harm than as many drawn at random, or of small values."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

RANK, LEFT = 12, 4
TRAINED = {"adalora": {"rank": RANK, "target_r": RANK, "tfinal": 0}}
"""Nothing is cut, and importance is noted to the last step but one."""
CLAIM = Claim(
    paper="adalora",
    says="Of trained changes, cutting two thirds of the triplets by importance leaves a lower loss of new rows than "
    "cutting as many by the size of their values g, or at random.",
    task="intents",
    method=Arm(name="importance", methods=[TRAINED]),
    baselines=[
        Arm(name="size", methods=[TRAINED]),
        Arm(name="random", methods=[TRAINED]),
    ],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    budget={"steps": 40},
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    extra={"train": {"learning_rate": 1e-2}},
    differs="one cut after forty steps and no training behind it, in nats per token; the paper compares ways to cut by "
    "the result of whole runs",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the validation rows after one cut of the same trained changes by each rule."""
    from tunewright.methods.adapters.adalora import NAME, alive
    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up
    from tunewright.training.train import train

    session = assemble(run.cut(run.recipe("importance", seed)))
    stage, provider = session.training_inputs(session.stages[0])
    set_up(stage.adapted, stage.methods, stage.plan, stage.task.name, provider.statistics, stage.earlier)
    method: Any = next(b for b in stage.methods if b.name == NAME)
    gates: dict[str, Any] = {
        f"{site}.delta.{NAME}": by_name[NAME].gate for site, by_name in stage.adapted.deltas().items()
    }
    scored: dict[str, Any] = {}

    def listen(loop: Any, record: dict[str, Any]) -> None:
        now = {n: method.method._scores(n, method.state) for n in gates}
        scored.update({n: s.clone() for n, s in now.items() if s is not None})  # forgotten at the last step

    stage.listen = listen
    train(stage, None)
    rng = torch.Generator().manual_seed(random.Random(f"{seed}/cut").getrandbits(31))
    scores: dict[str, dict[str, Any]] = {
        "importance": scored,
        "size": {n: g.detach().abs() for n, g in gates.items()},
        "random": {n: torch.rand(len(g), generator=rng) for n, g in gates.items()},
    }
    rows, kept = provider.context.source("validation"), {n: g.detach().clone() for n, g in gates.items()}
    return {arm: _loss(stage, rows, gates, kept, alive(of, LEFT * len(gates))) for arm, of in scores.items()}


@torch.no_grad()
def _loss(stage: Any, rows: Any, gates: Any, kept: Any, lives: Any) -> float:
    """Mean loss of the rows' targets with those triplets alone, nats a token."""
    for n, gate in gates.items():
        gate.data.copy_(torch.where(lives[n], kept[n], 0.0))
    total, weight = 0.0, 0.0
    with stage.adapted.evaluating() as model:
        for i in range(0, len(rows), 16):
            batch = stage.task.collate(rows[i : i + 16])
            made = stage.task.loss(stage.task.forward(model, batch), batch)
            total += float((made.value * batch.weights).sum())
            weight += float(batch.weights.sum())
    return total / weight
