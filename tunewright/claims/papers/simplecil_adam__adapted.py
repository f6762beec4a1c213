"""Features that the first task adapted, beside the base's own, make class means answer better than the base's alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.simplecil_adam import FROZEN

MEANS = ["simplecil-adam"]
FIRST = {"name": "classes-1", "methods": [*MEANS, {"lora": {"rank": 8, "alpha": 8.0}}]}

CLAIM = Claim(
    paper="simplecil-adam",
    says=(
        "Where classes arrive task by task, class means of the base's features and of those that the first task "
        "adapted, side by side, do better on all classes at the end than means of the base's features alone."
    ),
    task="classes",
    method=Arm(
        name="adam",
        methods=MEANS,
        extra={"stages": [FIRST, *({**stage, "methods": MEANS} for stage in FROZEN)]},
    ),
    baselines=[Arm(name="simplecil", methods=MEANS, extra={"stages": FROZEN})],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-3, 3e-3, 1e-2),
    differs="short texts instead of pictures, five tasks of two classes; the first task, which adapts, has a fifth of "
    "all rows",
)
