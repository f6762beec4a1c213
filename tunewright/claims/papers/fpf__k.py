"""A few rounds on the modules that change most between tasks do what replaying kept rows in every step does."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.fpf import KEPT

CLAIM = Claim(
    paper="fpf",
    says=(
        "Where classes arrive task by task, two rounds a task on the modules that change most between tasks, from the "
        "same kept rows, leave all classes known no worse at the end than replaying kept rows in every step."
    ),
    task="classes",
    method=Arm(name="k-fpf", methods=["full", {"fpf": {**KEPT, "k": 2, "finetune_steps": 10}}]),
    baselines=[Arm(name="er", methods=["full", {"er": KEPT}])],
    metric="target",
    direction="higher",
    smallest=-0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    differs="short texts instead of pictures, five tasks of two classes; two rounds of ten steps; the operations that "
    "the paper saves are not judged here",
)
