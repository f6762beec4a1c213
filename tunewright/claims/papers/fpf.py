"""Tuning the modules that change most between tasks on kept rows lifts a plain sequence of new classes."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

KEPT = {"buffer_size": 200, "keep": "balanced"}

CLAIM = Claim(
    paper="fpf",
    says=(
        "Where classes arrive task by task, tuning a few modules on kept rows at each task's end, those that change "
        "most between tasks, does better on all classes at the end than the same training without it."
    ),
    task="classes",
    method=Arm(name="fpf", methods=["full", {"fpf": KEPT}]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, five tasks of two classes; plain training as the method that is lifted; "
    "a fifth of the modules, a number of ours",
)
