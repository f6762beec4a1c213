"""Mixtures beside replay end a single pass over digits, two classes a task, better than replay alone."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

TASKS: dict[str, Any] = {"by": "label", "count": 5}
KEPT = {"buffer_size": 100}

CLAIM = Claim(
    paper="dualmix",
    says=(
        "Where classes arrive task by task and each row is seen once, replay with mixtures of changed pictures, and of "
        "old classes with new ones, does better on all classes at the end than replay alone with as many rows kept."
    ),
    task="digits",
    method=Arm(name="dualmix", methods=["full", {"dualmix": {**KEPT, "mirror": False}}]),
    baselines=[Arm(name="er", methods=["full", {"er": KEPT}])],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    budget={"epochs": 1},
    strengths=(1.0,),
    rates=(1e-4, 3e-4, 1e-3),
    extra={"tasks": TASKS, "train": {"head": "random"}, "keep": []},
    scales=("nano",),
    differs="turned digits on a base that knows them upright, 2,000 rows in five tasks; views are parts of a picture, "
    "not mirrored; three passes of gradients a step against one",
)
