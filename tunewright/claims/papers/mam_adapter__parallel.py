"""Beside the feed-forward part an adapter does better than behind it."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

ADDED: dict[str, Any] = {"prefix_length": 0, "width": 16, "composition": "add"}

CLAIM = Claim(
    paper="mam-adapter",
    says="Of two adapters of one width at the feed-forward part, the one that reads the part's input does better than "
    "the one that reads its output.",
    task="topics",
    method=Arm(name="parallel", methods=[{"mam-adapter": ADDED}]),
    baselines=[Arm(name="sequential", methods=[{"mam-adapter": {**ADDED, "insertion": "sequential"}}])],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    rates=(1e-3, 3e-3, 1e-2),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a text classifier in the place of summaries and translations, for which the paper shows it",
)
