"""Tuned in the 4 bits in which it runs, a model is better than one that is tuned first and rounded then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS = 20_000
CLAIM = Claim(
    paper="roste",
    says="An encoder tuned with its weights, inputs, keys and values in 4 bits, rotated where that rounds less, is at "
    "least 1 point of accuracy above one that is tuned whole and put into the same bits with the same rule afterwards.",
    task="topics",
    method=Arm(name="roste", methods=["roste"]),
    baselines=[Arm(name="rounded-after", methods=["full", "roste"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("real",),
    differs="an encoder of 22M parameters and short queries of ten domains instead of Pythia, Qwen and Llama on TL;DR "
    "and chat; all weights of both train at full fine-tuning's default rate, not tuned; what is rounded afterwards is "
    "rounded to the nearest, rotated by the same rule (the paper: GPTQ, SpinQuant and others); embeddings are whole",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy of both in 4 bits."""
    whole: dict[str, Any] = {"name": "whole", "methods": ["full"], "budget": {"tokens": TOKENS}}
    # the least that a stage may do: one step, whose rate moves nothing
    after: dict[str, Any] = {"name": "rounded", "start": "stages.whole", "carry": "training", "methods": ["roste"]}
    after |= {"budget": {"steps": 1}, "train": {"learning_rate": 1e-12}}
    ways = {
        "roste": [{"name": "few", "methods": ["roste"], "budget": {"tokens": TOKENS}}],
        "rounded-after": [whole, after],
    }
    return {arm: float(run.trial(arm, seed, stages=stages).tuned.target) for arm, stages in ways.items()}
