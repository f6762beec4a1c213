"""LoRA-FA takes less memory than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="lora-fa",
    says="With A frozen, the inputs of layers need not be kept for the backward pass: less memory than LoRA.",
    task="intents",
    method=Arm(name="lora-fa", methods=[{"lora-fa": {"rank": 16}}]),
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
    differs="the process's peak, the model's weights in it; a layer's input is kept all the same where "
    "what made it, or another layer, needs it",
)
