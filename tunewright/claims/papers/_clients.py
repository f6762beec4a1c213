"""What claims about clients share: rounds of five of them on a small ViT, split or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLIENTS: dict[str, Any] = {"clients": 5, "local_rows": 16}
SPLIT = Arm(
    name="sfprompt",
    methods=[{"sfprompt": {**CLIENTS, "length": 2, "client_blocks": [1, 1], "keep": 0.5}}],
    extra={"train": {"learning_rate": 1e-3}},
)
WHOLE = Arm(name="fedavg", methods=["full", {"fedavg": CLIENTS}], extra={"train": {"learning_rate": 3e-4}})
SHARED: dict[str, Any] = {
    "task": "digits",
    "method": SPLIT,
    "baselines": [WHOLE],
    "seeds": 5,
    "budget": {"steps": 16},
    "rates": (),
    "strengths": (1.0,),
    "extra": {"train": {"batch_tokens": 80}},
    "scales": ("nano",),
}
"""Rounds of 80 pictures; the lab's rate for all weights, and one of three times that for few."""
COUNTED: dict[str, Any] = {"budget": {"steps": 1}}
"""A count that no learning changes: one round of each."""
DIFFERS = (
    "a ViT of six blocks and width 128 on turned digits instead of ViT-Base and larger on CIFAR; 5 clients with alike "
    "rows in each round instead of 5 drawn of 50; a client holds two of six blocks"
)


def told(run: ClaimRun, seed: int, figure: str) -> dict[str, float]:
    """A figure of what a round costs, by arm."""
    from tunewright.runs.assemble import assemble
    from tunewright.training.setting_up import set_up
    from tunewright.training.train import begun

    found: dict[str, float] = {}
    for arm in run.claim.arms:
        session = assemble(run.cut(run.recipe(arm.name, seed)))
        stage, provider = session.training_inputs(session.stages[0])
        set_up(session.adapted, stage.methods, stage.plan, session.task.name, provider.statistics)
        loop = begun(stage)
        with loop.randomness.lent():
            loop.one_step()
        (said,) = [f for b in stage.methods if (f := b.method.found(b.state)) is not None]
        found[arm.name] = float(said.values[figure])  # type: ignore[arg-type]
    return found
