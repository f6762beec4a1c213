"""A model that first learnt what random networks made of noise learns text faster than one that saw noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

MADE, TEXT = 500_000, 100_000
PARAMETERS = {"rows": 4000, "length": 128, "buffer": 640, "batch": 64, "rounds": 100}

CLAIM = Claim(
    paper="iterated-random-computation",
    says=(
        "Pre-training on what random networks make of noise, round after round, and then on text gives a lower loss of "
        "text than pre-training on the noise itself, or than none, for as many tokens of text."
    ),
    task="domain",
    method=Arm(name="computation", methods=["full"]),
    baselines=[Arm(name="noise", methods=["full"]), Arm(name="scratch", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=6,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.15M parameters reading bytes, 0.5M made and 0.1M of text, where the paper has 10M parameters "
    "and more, and billions; rates (2e-3) are not tuned; German law in the place of English text",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of sentences of law after the text, nats a byte."""
    text = [{"path": rows.domain()["train"], "name": "law"}]
    last = _fresh.stage("text", text, TEXT, 2e-3)
    out: dict[str, float] = {}
    for arm, multiplier in (("computation", 5.0), ("noise", 0.0), ("scratch", None)):
        made: dict[str, Any] = {
            "path": "make:iterated-random-computation",
            "name": "made",
            "parameters": {**PARAMETERS, "seed": seed, "multiplier": multiplier},
        }
        first = [] if multiplier is None else [_fresh.stage("universal", [made], MADE, 2e-3)]
        record = run.trial(arm, seed, model=_fresh.model(seed, 259), stages=[*first, last])
        out[arm] = record.tuned.target
    return out
