"""Rotations chosen layer by layer spare a model in few bits what outlier channels would cost it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS, TIMES, BITS = 64, 20.0, 4
ARMS = {"roste": "adaptive", "never": "never"}
CLAIM = Claim(
    paper="roste",
    says="A model whose blocks read a channel of 20 times its size loses at least 0.1 nats a token less in 4 bits, "
    "before any training, where layers are rotated by their rounding errors than where none is.",
    task="intents",
    method=Arm(name="roste", methods=[{"roste": {"rotations": "adaptive"}}]),
    baselines=[Arm(name="never", methods=[{"roste": {"rotations": "never"}}])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="a Llama of 6M parameters; the channel is drawn and put in, the weights behind it made smaller by as much, "
    "so that the model itself says what it said; weights, inputs and caches in 4 bits; before training",
)


def put_in(model: Any, seed: int) -> None:
    """Make one channel behind every norm of a Llama's blocks `TIMES` larger, and what reads it smaller by as much."""
    import torch

    channel = random.Random(f"{seed}/outlier").randrange(model.config.hidden_size)
    with torch.no_grad():
        for block in model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            for norm, readers in (
                (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                norm.weight[channel] *= TIMES
                for layer in readers:
                    layer.weight[:, channel] /= TIMES


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """By how much the loss of 64 rows is above the model's own, nats a token."""
    import torch

    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up

    lost: dict[str, float] = {}
    for arm in ARMS:
        session = assemble(run.cut(run.recipe(arm, seed)))
        stage, provider = session.training_inputs(session.stages[0])
        context = provider.context
        put_in(context.adapted.model, seed)
        rows = random.Random(f"{seed}/rows").sample(context.source("train"), ROWS)
        batches = [context.task.collate(rows[i : i + 8], context.packed, seed=seed) for i in range(0, ROWS, 8)]

        def loss() -> float:
            total = weight = 0.0
            with torch.no_grad():
                for batch in batches:  # noqa: B023 - called at once
                    made = context.task.loss(context.task.forward(context.adapted.model, batch), batch)  # noqa: B023
                    total += float((made.value * batch.weights).sum())
                    weight += float(batch.weights.sum())
            return total / weight

        with context.adapted.evaluating():
            own = loss()
        set_up(context.adapted, stage.methods, stage.plan, context.task.name, provider.statistics)
        with context.adapted.evaluating():
            lost[arm] = loss() - own
    return lost
