"""Two experts, one quick and one slow, end a sequence of new classes better than the quick one alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim


def _arm(name: str, momentum: float) -> Arm:
    return Arm(name=name, methods=[{"lae": {"rank": 8, "alpha": 8.0, "momentum": momentum}}])


CLAIM = Claim(
    paper="lae",
    says=(
        "Where classes arrive task by task, the ensemble of an adapter and its slow average does better on all of "
        "them than the adapter alone."
    ),
    task="classes",
    method=_arm("lae", 0.999),
    baselines=[_arm("online", 0.0), Arm(name="lora", methods=[{"lora": {"rank": 8, "alpha": 8.0}}])],
    metric="target",
    direction="higher",
    smallest=0.01,
    strengths=(1.0,),
    rates=(1e-3, 3e-3, 1e-2),
    real={"seeds": 5},
    differs="short texts instead of pictures, five tasks of two classes; a momentum of 0.999, not 0.9999, since "
    "runs are shorter; "
    "'online' is the same with an average that follows at once, 'lora' trains all rows of the head; the average "
    "alone is not tried",
)
