"""Two per cent of the rows, drawn by influence and effort, teach more than two per cent at random."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="dealrec",
    says="Training on 2 % of the rows, chosen by influence and effort and drawn over all scores, does better than "
    "training on 2 % at random, for as many tokens.",
    task="selection",
    method=Arm(
        name="dealrec",
        methods=["full"],
        extra={"data": {"select": [{"dealrec": {"keep": 0.02, "iterations": 300}}]}},
    ),
    baselines=[Arm(name="random", methods=["full"], extra={"data": {"select": [{"random": {"keep": 0.02}}]}})],
    metric="target",
    direction="lower",
    smallest=0.02,
    seeds=5,
    scales=("nano",),
    differs="an adapted small model and its loss on texts instead of recommendations; the surrogate is the model "
    "itself; full-data training, which the paper surpasses too, is not an arm",
)
