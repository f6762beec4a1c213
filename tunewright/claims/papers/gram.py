"""A prompt whose start and step sizes were learnt on captions tells new classes better after a few rows of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _two_towers as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

WORDS = {"words": "a photo of a"}
LEARNT = Arm(name="gram", methods=[{"gram": WORDS}])
COOP = Arm(name="coop", methods=[{"gram": WORDS}])

CLAIM = Claim(
    paper="gram",
    says="After 16 rows each of half the classes, a prompt that started where a stage on captions left it finds the "
    "right one of thirty other classes at least one point more often than one that started at the usual words.",
    task="topics",
    method=LEARNT,
    baselines=[COOP],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="captions are those that the towers were trained on, upright digits in words, and no millions from the "
    "web; new classes alone; two small towers; one kind of prompt; the regulating function is ours",
)


def trial(run: ClaimRun, arm: str, seed: int, epochs: int = 10) -> Any:
    """The record of a run: towers, a stage on captions where the arm has one, and few turned rows of half the classes,
    judged on the other half, turned too.
    """
    data, prompts = lab.files(), {"learning_rate": 2e-3, "batch_tokens": 512}
    upstream = {"train": [{"path": data["upstream"], "name": "upstream"}]}
    towers = {"name": "towers", "methods": ["full"], "data": upstream, "budget": {"epochs": 12}}
    towers["train"] = {"learning_rate": 1e-3, "batch_tokens": 2048}
    then = {"start": "stages.towers", "carry": "fold", "train": prompts}
    meta = {"name": "meta", "methods": [{"gram": {**WORDS, "meta": True}}], "data": upstream, "budget": {"epochs": 1}}
    few = {"name": "few", "methods": run.arm(arm).methods, "budget": {"epochs": epochs}, **then}
    few["data"] = {"train": [{"path": data["few"], "name": "few"}]}
    return run.trial(
        arm,
        seed,
        model=lab.towers(seed),
        task="zero-shot-image-classification",
        data={
            "train": [{"path": data["few"], "name": "train"}],
            "eval": [{"path": data["eval"], "name": "eval"}],
            "validation": None,
            "template": "{label}",
        },
        stages=[towers, *([{**meta, **then}] if arm == LEARNT.name else []), few],
    )


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the pictures of new classes whose text comes first among thirty."""
    return {arm.name: float(trial(run, arm.name, seed).tuned.target) for arm in run.claim.arms}
