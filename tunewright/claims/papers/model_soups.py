"""A soup of three fine-tunings does better than the best of them would alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="model-soups",
    says="The average of several fine-tunings of one base beats a single one, at no cost when it is used.",
    task="intents",
    method=Arm(name="soup", methods=["full"], uses=["model-soups"]),
    baselines=[Arm(name="single", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.005,
    real={"seeds": 5, "budget": {"tokens": 20_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs=(
        "three members that differ in seed alone, at the chosen rate, and the uniform soup; the single model is "
        "one of the members"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match of the soup of three stages that all start from the base, and of one of them."""
    stages = [{"name": f"member-{i}", "start": "base", "train": {"seed": 100 * (i + 1) + seed}} for i in range(2)]
    soup = run.trial(
        "soup",
        seed,
        stages=[*stages, {"name": "own", "start": "base"}],
        after=[{"model-soups": {"of": ["stages.member-0", "stages.member-1"]}}],
    )
    single = run.trial("single", seed)
    return {"soup": soup.strengths[-1].target, "single": single.strengths[-1].target}
