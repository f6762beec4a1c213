"""The mean of several fine-tunings is a better start for a new task than the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import TASKS, Bench, finished, folder_of, task_recipe

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="fusing-finetuned-models",
    says="Fine-tuning starts better from the average of models tuned on other tasks than from the pre-trained model.",
    task="digits",
    method=Arm(name="fused", methods=["full"], uses=["fusing-finetuned-models"]),
    baselines=[Arm(name="base", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    scales=("nano",),
    differs=(
        "four changes of digits fused, three others learned from 300 pictures each; one head for all, which "
        "stays; a small ViT instead of RoBERTa"
    ),
)

TARGETS = ("tiled", "sliced", "mirrored")
FEW = 300


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean accuracy over new tasks after equal training from each start; beside it from one fine-tuned model."""
    bench = Bench(run, seed, "fused", TASKS)
    kept = finished(run, task_recipe(run, "fused", seed, TASKS[0])).folder
    fused = folder_of(kept, bench.merge("fusing-finetuned-models"), "fused")
    one = folder_of(finished(run, task_recipe(run, "fused", seed, TASKS[seed % len(TASKS)])).folder)
    starts: dict[str, dict[str, Any]] = {"fused": {"model": fused}, "base": {}, "intertraining": {"model": one}}
    means = {}
    for name, overlay in starts.items():
        arm = "base" if name == "base" else "fused"
        scores = [
            run.engine.run_one(task_recipe(run, arm, seed, t, FEW, **overlay), False).tuned.target for t in TARGETS
        ]
        means[name] = sum(scores) / len(scores)
    return means
