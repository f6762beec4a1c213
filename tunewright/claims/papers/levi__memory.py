"""LEVI takes less memory than tuning inside the model, since nothing is propagated back through it."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="levi",
    says="A frozen model that is read beside a small one takes at least 5 % less memory in training than LoRA in it.",
    task="topics",
    method=Arm(name="levi", methods=["levi"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.peak_memory_bytes",
    direction="lower",
    relative=True,
    smallest=0.05,
    seeds=5,
    rates=(),
    budget={"steps": 6},
    strengths=(1.0,),
    extra={"train": {"batch_tokens": 8192}, "evaluation": {"rows": 32}},
    scales=("real",),
    differs="the process's peak, the model's weights in it; batches of 8,192 tokens, so that activations are a part of "
    "it that shows; the paper speaks of efficiency without a number in its abstract",
)
