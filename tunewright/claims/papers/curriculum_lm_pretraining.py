"""A curriculum as a warm-up of pre-training leaves a lower loss than random order all along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _pages

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD, WARMUP = "curriculum-lm-pretraining", 0.3

CLAIM = Claim(
    paper=METHOD,
    says="Pre-trained once through the same pages, a model whose first 30 % come from redundant to dense (by how they "
    "compress) has a lower loss on new pages than one whose pages all come in random order.",
    task="domain",
    method=Arm(name="warm-up", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and 3,000 pages of four kinds instead of up to a billion parameters and 100 "
    "billion tokens; judged by the loss of new pages instead of eight benchmarks; one rate (3e-3) for both, not tuned; "
    "the warm-ups of two other signals and a whole pass in order are run beside it and not judged",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new pages after one pass."""
    orders = {f"{s} first": {"difficulty": s, "warmup": WARMUP} for s in ("compression", "diversity", "readability")}
    orders["in order"] = {"difficulty": "compression"}
    found = {name: _pages.loss_of(run, "warm-up", seed, select=[{METHOD: says}]) for name, says in orders.items()}
    return {"warm-up": found.pop("compression first"), "random": _pages.loss_of(run, "random", seed), **found}
