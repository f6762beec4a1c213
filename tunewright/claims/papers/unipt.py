"""UniPT takes less memory than LoRA, since nothing is propagated back through the model."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="unipt",
    says="A side network that reads the frozen model's layers cuts training memory sharply beside LoRA.",
    task="topics",
    method=Arm(name="unipt", methods=["unipt"]),
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
    differs=(
        "the process's peak, the model's weights in it; batches of 8,192 tokens, so that activations are a part "
        "of it that shows"
    ),
)
