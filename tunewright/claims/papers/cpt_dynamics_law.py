"""A law of learning rates, fitted to curves under some schedules, foresees those under other ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.laws.cpt_dynamics_law import Curve, fit_curves, law, parameters
from tunewright.laws.fitting import Fit, Parameter, fit
from tunewright.laws.observed import observe

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FITTED = (("constant", 1e-3), ("cosine", 1e-3), ("constant", 4e-4))
AHEAD = (("linear", 1e-3), ("cosine", 6e-4))
"""(schedule, highest rate) of the runs that are fitted, and of those that are foreseen."""
TOKENS, BATCH, EVERY = 10_000, 256, 4

CLAIM = Claim(
    paper="cpt-dynamics-law",
    says="Fitted to the held-out losses of three short runs, the law of summed and annealed learning rates is nearer "
    "to the curves of two runs under a schedule and a rate that it never saw than a power law of the steps is, and "
    "than itself without annealing.",
    task="domain",
    method=Arm(name="law", methods=["full"]),
    baselines=[Arm(name="steps", methods=["full"]), Arm(name="without-annealing", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={
        "train": {"batch_tokens": BATCH, "eval_steps": EVERY},
        "budget": {"tokens": TOKENS},
        "evaluation": {"rows": 20, "drift_sequences": 4},
    },
    scales=("nano",),
    differs="a base of 3.4M parameters that goes on with German law for 40 steps (there: thousands); held-out text of "
    "the domain alone, and no replay; the law is the one in tunewright/laws, whose annealing of pre-training is not "
    "known to it",
)


def curve(run: ClaimRun, seed: int, schedule: str, rate: float) -> Curve:
    """The held-out losses of a run under a schedule, with its learning rates."""
    train = {"lr_scheduler_type": schedule, "learning_rate": rate}
    found = observe(run.trial("law", seed, keep_artefacts=True, train=train).folder).curve
    assert found is not None
    return Curve(f"{schedule}-{rate}", found.share, found.rates, found.points)


def of_steps(curves: list[Curve]) -> Fit:
    """A power law of the steps alone: L0 - A (1 - (1 + n / P)^-alpha)."""
    x = np.array([[float(n)] for c in curves for n, _ in c.points])
    losses = np.array([loss for c in curves for _, loss in c.points])
    low, high = float(losses.min()), float(losses.max())

    def power(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        start, a, p, alpha = values
        return start - a * (1 - (1 + x[:, 0] / p) ** -alpha)  # type: ignore[no-any-return]

    bounds = (
        Parameter("L0", low / 2, 2 * high, log=True),
        Parameter("A", 0.0, high),
        Parameter("P", 1e-2, 1e3, log=True),
        Parameter("alpha", 0.05, 2.0, log=True),
    )
    return fit(power, bounds, x, losses, [c.run for c in curves for _ in c.points])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean absolute error of the curves that are foreseen, nats a token; beside it that of no change at all."""
    curves = [curve(run, seed, *how) for how in FITTED]
    whole, plain = fit_curves(curves), of_steps(curves)
    inputs, losses = whole.fit.inputs, whole.fit.losses

    def unannealed(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        return law(np.column_stack([x[:, :2], np.zeros(len(x))]), values)

    less = fit(unannealed, parameters(losses), inputs, losses, whole.fit.runs.tolist())
    found: dict[str, list[float]] = {"law": [], "steps": [], "without-annealing": [], "base": []}
    for how in AHEAD:
        new = curve(run, seed, *how)
        steps, seen = [n for n, _ in new.points], np.array([loss for _, loss in new.points])
        x = whole.at(new.share, new.rates, steps)
        said = {
            "law": whole.fit.predict(x),
            "steps": plain.predict(np.array(steps, float)[:, None]),
            "without-annealing": less.predict(x),
            "base": np.full(len(seen), seen[0]),
        }
        for name, values in said.items():
            found[name] += np.abs(values - seen)[1:].tolist()
    return {name: float(np.mean(errors)) for name, errors in found.items()}
