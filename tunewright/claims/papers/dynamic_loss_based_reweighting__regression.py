"""Where every target can be met, gradient steps that look away from rows of low loss come closer in as many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "dynamic-loss-based-reweighting"
DIMENSIONS, ROWS, BATCH, STEPS, RATE = 20, 2000, 32, 400, 0.01
CLAIM = Claim(
    paper=METHOD,
    says="In linear regression without noise, plain gradient steps whose rows are weighed by linupper reach a loss on "
    "new rows that is lower by a tenth or more than with equal weights, in as many steps at the same rate.",
    task="domain",
    method=Arm(name="linupper", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="uniform", methods=["full"])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="the paper's own smallest problem; its sizes are not known to us: 20 dimensions whose scales fall from 1 "
    "to 0.1, 32 rows a step, 400 steps at 0.01; weights by the method's own function, outside of a run",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean squared error on new rows after the steps, with each function and with equal weights."""
    return {"uniform": _error(seed, None), **{f: _error(seed, f) for f in ("linupper", "quadratic", "extremes")}}


def _error(seed: int, function: str | None) -> float:
    from tunewright.methods.objectives.dynamic_loss_based_reweighting import factors

    rng = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -1, DIMENSIONS, dtype=torch.float64)
    x = torch.randn(ROWS + 500, DIMENSIONS, generator=rng, dtype=torch.float64) * scales
    y = x @ torch.randn(DIMENSIONS, generator=rng, dtype=torch.float64)
    w = torch.zeros(DIMENSIONS, dtype=torch.float64)
    for _ in range(STEPS):
        rows = torch.randint(ROWS, (BATCH,), generator=rng)
        residual = x[rows] @ w - y[rows]
        weights = torch.ones(BATCH) if function is None else factors(residual**2, function, 1.0)
        w -= RATE * (weights * 2 * residual) @ x[rows] / BATCH
    return float(((x[ROWS:] @ w - y[ROWS:]) ** 2).mean())
