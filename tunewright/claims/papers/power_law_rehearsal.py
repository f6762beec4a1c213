"""Rehearsal whose rows come back by a power law ends a sequence of new classes better than importances that hold."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

KEPT = {"buffer_size": 200, "keep": "balanced"}

CLAIM = Claim(
    paper="power-law-rehearsal",
    says=(
        "Where classes arrive task by task, rehearsing kept rows by a power of the time since their task does better "
        "on all classes at the end than regularisation that holds the weights that mattered to earlier tasks."
    ),
    task="classes",
    method=Arm(name="power-law", methods=["full", {"power-law-rehearsal": KEPT}]),
    baselines=[
        Arm(name="ewc", methods=["full", "online-ewc"]),
        Arm(name="si", methods=["full", "si"]),
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="new classes in short texts instead of permuted digits, five tasks; rehearsal beside each step from 200 "
    "kept rows instead of after each task",
)
