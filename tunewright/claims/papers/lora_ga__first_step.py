"""A first step from LoRA-GA's start goes along the whole gradient, and one from LoRA's does hardly."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from torch import Tensor

    from tunewright.claims.claim_run import ClaimRun

RANK, READ, NEW = 8, 32, 200
CLAIM = Claim(
    paper="lora-ga",
    says="Before training, the first step of plain descent on A and B moves the weights along the gradient of other "
    "rows: at a cosine at least 0.2 higher from the singular vectors of 32 rows' gradient than from LoRA's own start.",
    task="intents",
    method=Arm(name="lora-ga", methods=[{"lora-ga": {"rank": RANK}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": RANK}}])],
    metric="measured",
    direction="higher",
    smallest=0.2,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="the direction of one step of plain descent, of all layers together; the paper reports convergence",
)


def _cosine(moves: dict[str, Tensor], along: dict[str, Tensor]) -> float:
    product = sum(float((moves[n] * along[n]).sum()) for n in along)
    lengths = [sum(float(t.square().sum()) for t in of.values()) ** 0.5 for of in (moves, along)]
    return product / (lengths[0] * lengths[1])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Cosine between the first change of all weights together and the gradient of `NEW` other rows."""
    from tunewright.contract.batch import Batch
    from tunewright.methods.needs.gradient_directions import directions, one_gradient_at_a_time
    from tunewright.runs.assemble import assemble

    session = assemble(run.cut(run.recipe("lora", seed)))
    stage, provider = session.training_inputs(session.stages[0])
    context = provider.context
    rows = random.Random(f"{seed}/first-step").sample(context.source("train"), READ + NEW)
    sites, task = context.adapted.structure.linear_sites(), context.task

    def batches(part: list) -> list[Batch]:  # type: ignore[type-arg]
        return [task.collate(part[i : i + 8], context.packed, seed=seed) for i in range(0, len(part), 8)]

    def loss(batch: Batch) -> Tensor:
        made = task.loss(task.forward(context.adapted.model, batch), batch)
        total: Tensor = (made.value * batch.weights).sum()
        return total

    def gradient(part: list) -> dict[str, Tensor]:  # type: ignore[type-arg]
        sums: dict[str, Tensor] = {}
        with one_gradient_at_a_time(sites, lambda n, G: sums.update({n: sums[n] + G if n in sums else G})) as weights:
            for batch in batches(part):
                loss(batch).backward(inputs=weights)
        return sums

    with context.adapted.evaluating():
        G, new = gradient(rows[:READ]), gradient(rows[READ:])
        found = directions(sites, loss, lambda: batches(rows[:READ]), 2 * RANK, iterations=2)
    drawn = torch.Generator().manual_seed(seed)
    moves: dict[str, dict[str, Tensor]] = {"lora-ga": {}, "lora": {}}
    for s in sites:
        bound = s.in_features**-0.5
        random_A = torch.empty(RANK, s.in_features).uniform_(-bound, bound, generator=drawn)
        A, B = found[f"right.{s.name}"][:RANK], found[f"left.{s.name}"][:, RANK:]
        c = s.out_features**0.5 / 16
        moves["lora-ga"][s.name] = c * (G[s.name] @ A.t() @ A + B @ B.t() @ G[s.name])
        moves["lora"][s.name] = G[s.name] @ random_A.t() @ random_A
    return {arm: _cosine(of, new) for arm, of in moves.items()}
