"""Rows of low loss that count less in their step leave a lower loss on new pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _pages

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "dynamic-loss-based-reweighting"
CLAIM = Claim(
    paper=METHOD,
    says="Pre-trained once through the same pages, a model whose rows of low loss count less (linupper) has a lower "
    "loss on new pages than one whose rows all count alike.",
    task="domain",
    method=Arm(name="linupper", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and one pass over 3,000 pages instead of up to 7 billion parameters; about "
    "fourteen rows a step; the code's temperature (1); one rate (3e-3) for both, not tuned; the three other functions "
    "are run beside it and not judged",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new pages after one pass."""
    found = {
        function: _pages.loss_of(run, "linupper", seed, {METHOD: {"function": function}})
        for function in ("linupper", "linear", "quadratic", "extremes")
    }
    return {**found, "random": _pages.loss_of(run, "random", seed)}
