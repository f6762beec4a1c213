"""OFT keeps the angles between a layer's neurons, LoRA does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished, tensors_of
from tunewright.loading.load import load

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="oft",
    says="After training, cosines between a layer's rows are those of the base: they move at most a tenth as far as "
    "with LoRA.",
    task="intents",
    method=Arm(name="oft", methods=[{"oft": {"block_size": 16, "use_cayley_neumann": False}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.9,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    budget={"steps": 40},
    scales=("nano",),
    differs="a small language model instead of diffusion; the mean change of cosines, not the hyperspherical energy",
)


def cosines(weight: torch.Tensor) -> torch.Tensor:
    """[out, out] cosines between rows."""
    rows = torch.nn.functional.normalize(weight.float(), dim=1)
    return rows @ rows.T


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean size of the change of cosines, over all linear layers."""
    loaded = load(run.task["model"], run.task["task"])
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}
    names = [s.weight_name for s in loaded.adapted().structure.linear_sites()]
    found = {}
    for arm in run.claim.arms:
        after = tensors_of(finished(run, run.recipe(arm.name, seed)).folder)
        moved = [(cosines(after[n]) - cosines(before[n])).abs().mean() for n in names]
        found[arm.name] = float(torch.stack(moved).mean())
    return found
