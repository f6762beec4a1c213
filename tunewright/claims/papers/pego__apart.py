"""Members of a regularised group read other directions than each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished
from tunewright.claims.papers.pego import REGULARISED

if TYPE_CHECKING:
    from torch import Tensor

    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="pego",
    says="After training, the changes of two members of a layer's group share at least a quarter less of what they "
    "read than without the penalty.",
    task="digits",
    method=REGULARISED,
    baselines=[Arm(name="group", methods=[{"pego": {"rank": 4, "members": 4, "preserve": 0.0, "diversify": 0.0}}])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.25,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"train": {"learning_rate": 3e-3}},
    scales=("nano",),
    differs="a small ViT and one domain; overlap by Frobenius norms, so that smaller changes do not count as apart; "
    "one rate, which is not tuned",
)


def shared(first: Tensor, second: Tensor) -> float:
    """||D E^T|| / (||D|| ||E||): 0 where the rows of the two changes are orthogonal. 0 for a change that is 0."""
    size = float(first.norm() * second.norm())
    return float((first @ second.t()).norm()) / size if size else 0.0


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over layers and pairs of members of what they share."""
    from tunewright.finished.finished import open_run

    found = {}
    for arm in run.claim.arms:
        tuned = open_run(finished(run, run.recipe(arm.name, seed)).folder)
        pairs = []
        for by_name in tuned.adapted.deltas().values():
            d: Any = by_name["pego"]
            parts = zip(d.lora_A.detach().split(4), d.lora_B.detach().split(4, dim=1), strict=True)
            made = [B @ A for A, B in parts]
            pairs += [shared(a, b) for i, a in enumerate(made) for b in made[i + 1 :]]
        found[arm.name] = float(torch.tensor(pairs).mean())
    return found
