"""IST takes less memory than LoRA on all layers."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="ist",
    says=(
        "With adapters on a quarter of the layers a step, activations of the layers below the lowest of them need "
        "not be kept: less memory than LoRA."
    ),
    task="intents",
    method=Arm(name="ist", methods=[{"lora": {"rank": 16}}, "ist"]),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="cost.peak_memory_bytes",
    direction="lower",
    relative=True,
    smallest=0.02,
    seeds=5,
    rates=(),
    budget={"steps": 6},
    strengths=(1.0,),
    extra={"train": {"batch_tokens": 2048}, "evaluation": {"rows": 16, "drift_sequences": 4}},
    scales=("real",),
    differs=(
        "the process's peak, the model's weights in it; batches of 2,048 tokens, so that activations are a part "
        "of it that shows"
    ),
)
