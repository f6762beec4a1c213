"""LoHa's change has a higher rank than that of a LoRA with as many numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished, tensors_of
from tunewright.loading.load import load

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHARE = 0.01
"""Directions count whose singular value is at least this share of the largest."""
CLAIM = Claim(
    paper="loha",
    says="With as many trained numbers, a layer's change has at least four more directions that count than LoRA's of "
    "rank 16.",
    task="intents",
    method=Arm(name="loha", methods=[{"loha": {"rank": 8}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="measured",
    direction="higher",
    smallest=4.0,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    budget={"steps": 60},
    scales=("nano",),
    differs="an adapter on a small language model; the rank that training used, where the paper proves what is reached",
)


def directions(change: torch.Tensor) -> int:
    """How many singular values are no smaller than SHARE of the largest."""
    values = torch.linalg.svdvals(change)
    return int((values >= SHARE * values[0]).sum())


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean number of directions, over all linear layers."""
    loaded = load(run.task["model"], run.task["task"])
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}
    names = [s.weight_name for s in loaded.adapted().structure.linear_sites()]
    found = {}
    for arm in run.claim.arms:
        after = tensors_of(finished(run, run.recipe(arm.name, seed)).folder)
        counts = [directions(after[n].float() - before[n].float()) for n in names]
        found[arm.name] = sum(counts) / len(counts)
    return found
