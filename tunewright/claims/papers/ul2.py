"""A mixture of denoisers is a better start for a task than short spans alone, or continuation alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PRETRAINING, TASK = 500_000, 60_000
DENOISERS: dict[str, Any] = {
    "mixture": "ul2",
    "spans": {"ul2": {"x": 0.0, "s": 0.0, "r_spans": [[3.0, 0.15]]}},
    "continuation": {"ul2": {"r": 0.0, "x": 0.0}},
}

CLAIM = Claim(
    paper="ul2",
    says=(
        "Pre-training on the mixture of denoisers and tuning on a task gives a lower loss of the task's answers than "
        "pre-training on T5's spans alone, or on continuation alone, for as many tokens."
    ),
    task="intents",
    method=Arm(name="mixture", methods=["full"]),
    baselines=[Arm(name="spans", methods=["full"]), Arm(name="continuation", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=6,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a causal model of 0.2M parameters that reads its inputs from left to right, half a million tokens, one "
    "task, no mode token at the task; rates (3e-3, 1e-3) are not tuned",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers to other messages, nats a token."""
    general = [{"path": _fresh.general(), "name": "general"}]
    task = [{"path": "quickstart:train"}]
    out = {}
    for arm, denoiser in DENOISERS.items():
        stages = [
            _fresh.stage("pretraining", general, PRETRAINING, 3e-3, methods=["full", denoiser]),
            _fresh.stage("task", task, TASK, 1e-3),
        ]
        overlay: dict[str, Any] = {"model": _fresh.model(seed), "evaluation": {"metric": "loss"}, "stages": stages}
        out[arm] = run.trial(arm, seed, **overlay).tuned.target
    return out
