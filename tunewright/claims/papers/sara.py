"""The smallest weights learn a task at less loss of what was known than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

RATES = (3e-4, 1e-3, 3e-3)
CLAIM = Claim(
    paper="sara",
    says="Training the tenth of the weights that is smallest keeps more of what the model knew than LoRA does, at the "
    "same gain.",
    task="intents",
    method=Arm(name="sara", methods=["sara"], rates=RATES),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=RATES)],
    metric="kept at matched target",
    direction="lower",
    smallest=0.01,
    at=0.9,
    seeds=5,
    scales=("nano",),
    differs="a small language model and the loss on general text instead of a diffusion model's pictures",
)
