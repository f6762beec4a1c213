"""A large base with a small model's tuning keeps more of general text than the small tuned model."""

from __future__ import annotations

from tunewright.claims.claim import Claim
from tunewright.claims.papers.emulated_fine_tuning import SMALL, UPSCALED

CLAIM = Claim(
    paper="emulated-fine-tuning",
    says=(
        "The scale of pre-training brings what is known: beside a larger base, the loss on general text is lower "
        "than that of the small tuned model."
    ),
    task="intents",
    method=UPSCALED,
    baselines=[SMALL],
    metric="kept",
    direction="lower",
    smallest=0.02,
    better_base=("nano-large", "nano"),
    strengths=(0.5, 1.0),
    scales=("nano",),
    differs="knowledge is the loss on general text, where the paper has facts in long answers judged",
)
