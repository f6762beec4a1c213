"""Tuned in the few bits in which it will run, a model does better than one that is put into them after tuning."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

RATES = (3e-4, 1e-3)
BITS: dict[str, Any] = {"weight_bits": 4, "input_bits": 4, "cache_bits": 4}
TUNED = {"name": "tune", "methods": ["full"]}
PUT = {  # one step that changes nothing: what is measured is the tuned model in few bits, rotated where that helps
    "name": "quantise",
    "methods": [{"roste": BITS}],
    "budget": {"steps": 1},
    "train": {"learning_rate": 1e-12},
}
CLAIM = Claim(
    paper="roste",
    says="With weights, inputs and caches in 4 bits, an encoder that was tuned so, rotated by its layers' errors, is "
    "at least a point more accurate than one that was tuned as it is and then rotated and rounded in the same way.",
    task="topics",
    method=Arm(name="roste", methods=[{"roste": BITS}], rates=RATES),
    baselines=[Arm(name="after", methods=["full"], extra={"stages": [TUNED, PUT]}, rates=RATES)],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    strengths=(1.0,),
    scales=("nano",),
    differs="an encoder of 2.6M parameters and queries of ten domains instead of Pythia, Qwen and Llama of 1B to 8B; "
    "its base has a new head and is measured unrounded; nearest rounding after tuning, rotated alike, stands for GPTQ, "
    "QuaRot and SpinQuant",
)
