"""A factored model that learns from the original's features is better than one that is factored and tuned alone."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="pela",
    says=(
        "With half of a layer's parameters, training on the original's features and near its weights leaves a better "
        "model than training the factors on the task alone, for as many tokens."
    ),
    task="intents",
    method=Arm(name="pela", methods=["pela"]),
    baselines=[Arm(name="factors", methods=[{"pela": {"distillation": 0.0, "perturbation": 0.0}}])],
    metric="kept",
    direction="lower",
    smallest=0.02,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 5, "budget": {"tokens": 20_000}},
    differs="one stage of training in the place of 50 epochs and a fine-tuning; judged by the loss on general text "
    "instead of ImageNet and its transfers",
)
