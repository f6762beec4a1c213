"""The means of frozen features, which nothing trains, end a sequence of new classes better than training goes on to."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

LATER = {"carry": "frozen"}
FROZEN = [{"name": f"classes-{i}", **LATER} for i in range(2, 6)]

CLAIM = Claim(
    paper="simplecil-adam",
    says=(
        "Where classes arrive task by task, class means of the base's own features, with nothing trained, do better on "
        "all classes at the end than fine-tuning that goes on from task to task."
    ),
    task="classes",
    method=Arm(name="simplecil", methods=["simplecil-adam"], extra={"stages": FROZEN}),
    baselines=[
        Arm(name="full", methods=["full"], rates=(1e-4, 3e-4, 1e-3)),
        Arm(name="lora", methods=[{"lora": {"rank": 8, "alpha": 8.0}}]),
    ],
    metric="target",
    direction="higher",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    rates=(1e-3, 3e-3, 1e-2),
    differs="short texts instead of pictures, five tasks of two classes; plain sequences of training instead of the "
    "prompt pools of the paper",
)
