"""DoRA's rows change their length against their direction as full fine-tuning's do, LoRA's along with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished, tensors_of
from tunewright.loading.load import load

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

STEPS = (16, 32, 64)
CLAIM = Claim(
    paper="dora",
    says="Over layers and times of training, how far rows change their length goes along less with how far they turn "
    "in DoRA than in LoRA: the correlation is lower by at least 0.1.",
    task="intents",
    method=Arm(name="dora", methods=[{"dora": {"rank": 16}}]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="all linear layers of a small language model after 16, 32 and 64 steps at one rate, instead of query and "
    "value of VL-BART at six checkpoints",
)


def correlation(before: dict[str, torch.Tensor], after: list[dict[str, torch.Tensor]], names: list[str]) -> float:
    """Pearson's r between a layer's mean change of its rows' lengths and their mean 1 - cosine, over all of them."""
    points = []
    for tensors in after:
        for n in names:
            old, new = before[n].float(), tensors[n].float()
            length = (new.norm(dim=1) - old.norm(dim=1)).abs().mean()
            turned = 1 - torch.nn.functional.cosine_similarity(new, old, dim=1).mean()
            points.append(torch.stack([length, turned]))
    return float(torch.corrcoef(torch.stack(points).T)[0, 1])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Each arm's correlation."""
    loaded = load(run.task["model"], run.task["task"])
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}
    names = [s.weight_name for s in loaded.adapted().structure.linear_sites()]
    found = {}
    for arm in run.claim.arms:
        runs = [finished(run, run.recipe(arm.name, seed, budget={"steps": steps, "tokens": None})) for steps in STEPS]
        found[arm.name] = correlation(before, [tensors_of(r.folder) for r in runs], names)
    return found
