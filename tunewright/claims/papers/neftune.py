"""Noise on embeddings raises the target of fine-tuning."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="neftune",
    says="With noise on the embeddings the same training ends at a higher target.",
    task="intents",
    method=Arm(name="neftune", methods=["full", "neftune"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano", "real"),
    real={"rates": (3e-5, 1e-4, 3e-4)},
    differs="short answers that are right or wrong in the place of conversations that a judge prefers",
)
