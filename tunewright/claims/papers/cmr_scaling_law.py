"""A law of shares and tokens, fitted to short runs, foresees the losses of longer ones of other shares."""

from __future__ import annotations

import math
from statistics import linear_regression
from typing import TYPE_CHECKING

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.laws.cmr_scaling_law import Point, fit_mixture

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHARES, BUDGETS = (0.9, 0.7, 0.4), (2_000, 4_000, 8_000)
AHEAD, UNSEEN = 16_000, (0.8, 0.5)
"""Shares of domain text and tokens of the runs that are fitted, and of those that are foreseen."""
TEXTS = ("domain", "general")

CLAIM = Claim(
    paper="cmr-scaling-law",
    says="Fitted to nine short runs of three mixtures and three budgets, the law of mixture and tokens is nearer to "
    "the domain and general losses of runs of twice the largest budget and two mixtures that it never saw than the "
    "nearest run's losses are, and than lines by share through the logarithms of loss and tokens.",
    task="domain-replay",
    method=Arm(name="law", methods=["full"]),
    baselines=[Arm(name="nearest", methods=["full"]), Arm(name="lines", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"evaluation": {"rows": 100, "drift_sequences": 4}, "train": {"lr_scheduler_type": "linear"}},
    scales=("nano",),
    differs="a base of 3.4M parameters, German law beside English text, budgets of thousands of tokens (there: bases "
    "of 460M to 3.1B, tens of billions); the law is the one in tunewright/laws, which differs from the paper's; losses "
    "are foreseen, and no critical ratio is looked for",
)


def ended(run: ClaimRun, seed: int, share: float, tokens: int) -> tuple[Point, Point]:
    """(losses before, at the end of) a run that takes a share of its tokens from the domain."""
    (replay,) = run.recipe("law", seed).data.replay
    record = run.trial("law", seed, data={"replay": {replay: 1 - share}}, budget={"tokens": tokens})
    seen = float(record.cost["tokens"])
    ends = (record.base, record.tuned)
    before, after = (Point(f"{share}/{tokens}", share, seen, p.target, p.kept["general"]) for p in ends)
    return before, after


def lines(points: list[Point], new: Point, text: str) -> float:
    """The loss by share and tokens: straight lines of its logarithm over that of tokens at each share, and between."""
    shares = sorted({p.share for p in points})
    at = []
    for share in shares:
        some = [p for p in points if p.share == share]
        tokens, losses = [math.log(p.tokens) for p in some], [math.log(getattr(p, text)) for p in some]
        flat = len(set(tokens)) == 1  # runs so short that they took as many tokens
        slope, start = (0.0, sum(losses) / len(losses)) if flat else linear_regression(tokens, losses)
        at.append(math.exp(start + slope * math.log(new.tokens)))
    return float(np.interp(new.share, shares, at))


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean absolute error, nats a token, over both texts of the runs that are foreseen; beside it the base's."""
    ends = [ended(run, seed, share, tokens) for share in SHARES for tokens in BUDGETS]
    base, points = ends[0][0], [after for _, after in ends]
    law = fit_mixture(points, base.domain, base.general)
    found: dict[str, list[float]] = {"law": [], "nearest": [], "lines": [], "base": []}
    for share in UNSEEN:
        _, new = ended(run, seed, share, AHEAD)
        near = min(points, key=lambda p: (abs(p.share - new.share), abs(p.tokens - new.tokens)))
        for text in TEXTS:
            told = float(getattr(law, text).predict(law.at([new.share], [new.tokens]))[0])
            said = {"law": told, "nearest": getattr(near, text), "lines": lines(points, new, text)}
            for name, value in {**said, "base": getattr(base, text)}.items():
                found[name].append(abs(value - getattr(new, text)))
    return {name: float(np.mean(errors)) for name, errors in found.items()}
