"""An adapter for each task, retrieved row by row, ends a sequence of new classes better than one adapter for all."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="mos",
    says=(
        "Where classes arrive task by task, an adapter for each, merged with those before and retrieved by the model's "
        "own answers, does better on all classes at the end than one adapter that trains on from task to task."
    ),
    task="classes",
    method=Arm(name="mos", methods=["mos"]),
    baselines=[Arm(name="sequence", methods=[{"lae": {"rank": 8, "alpha": 8.0, "momentum": 0.0, "frozen": 0.0}}])],
    metric="target",
    direction="higher",
    smallest=0.02,
    strengths=(1.0,),
    rates=(1e-3, 3e-3, 1e-2),
    interval="seeds and rows",
    real={"seeds": 5},
    differs="short texts instead of pictures, five tasks of two classes; the one adapter is low-rank (lae whose "
    "average follows at once and whose adapter never waits), with the same loss among a task's own classes",
)
