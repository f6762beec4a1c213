"""In a Si-Blurry stream the tasks differ far more in how many rows they bring than in one whose shares are fixed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.data.read import read_all

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

BLURRY = {"disjoint": 0.5, "blur": 0.3}

CLAIM = Claim(
    paper="si-blurry",
    says="Where the parts that tasks have alone and share are drawn, the rows of a task vary by at least a third of "
    "their mean more than where all tasks have the same parts (i-Blurry).",
    task="digits",
    method=Arm(name="si-blurry", methods=["full"]),
    baselines=[Arm(name="i-blurry", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=1 / 3,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="2,000 digits of ten classes in five tasks; the stream alone, on which nothing is trained: the paper's "
    "masks and prompts are not in it",
)


def sizes(run: ClaimRun, arm: str, seed: int, tasks: dict[str, Any]) -> list[int]:
    """How many rows each task brings."""
    recipe = run.recipe(arm, seed, tasks={"by": "label", "count": 5, **tasks}, keep=[])
    return [
        sum(len(list(read_all(source, recipe.base).records)) for source in recipe.data_for(stage).train)
        for stage in recipe.stages
    ]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Standard deviation of the tasks' rows as a share of their mean; beside it the rows of each stream."""
    streams: dict[str, dict[str, Any]] = {
        "si-blurry": {"blurry": {**BLURRY, "stochastic": seed}},
        "i-blurry": {"blurry": BLURRY, "order_seed": seed},
    }
    out = dict[str, float]()
    for arm, tasks in streams.items():
        each = sizes(run, arm, seed, tasks)
        out[arm] = statistics.pstdev(each) / statistics.mean(each)
        out[f"{arm}, rows"] = float(sum(each))
    return out
