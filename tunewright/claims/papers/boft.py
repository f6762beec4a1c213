"""BOFT does better than LoRA."""

from __future__ import annotations

from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="boft",
    says="Turning each layer's input by two butterfly factors is right more often than LoRA.",
    task="topics",
    method=Arm(name="boft", methods=[{"boft": {"block_size": 8, "n_butterfly_factor": 2}}], rates=(3e-4, 1e-3, 3e-3)),
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 16}}], rates=(3e-4, 1e-3, 3e-3))],
    metric="target",
    direction="higher",
    smallest=0.005,
    seeds=5,
    strengths=(1.0,),
    real={"seeds": 3},
    differs="a small encoder and ten domains instead of language models, SAM and diffusion; two factors of blocks of 8",
)
