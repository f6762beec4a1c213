"""Noise on embeddings lowers the loss on rows that were not trained on."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="neftune",
    says="Noise keeps a model from learning its rows by heart: after several passes over them the loss on others is "
    "lower than without.",
    task="intents",
    method=Arm(name="neftune", methods=["full", "neftune"]),
    baselines=[Arm(name="full", methods=["full"])],
    metric="target",
    direction="lower",
    smallest=0.01,
    seeds=5,
    budget={"tokens": 30_000},
    rates=(1e-3, 3e-3),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="a small base and twelve answers; the paper shows losses on Evol-Instruct of a model trained on Alpaca",
)
