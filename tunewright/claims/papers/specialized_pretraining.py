"""A domain set that is repeated from the start of pre-training is known better after fine-tuning on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHARE, SENTENCES = 0.05, 300
PRETRAINING, FINE_TUNING = 500_000, 60_000

CLAIM = Claim(
    paper="specialized-pretraining",
    says=(
        "Repeating the small domain set as a share of the tokens from the start of pre-training, and fine-tuning on it "
        "afterwards, gives a lower loss on the domain than fine-tuning alone, for as many tokens of each stage."
    ),
    task="domain",
    method=Arm(name="spt", methods=["full"]),
    baselines=[Arm(name="standard", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=6,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and half a million tokens, both stages' rates (3e-3, 1e-3) and the share (5 %) "
    "taken once and not tuned; 300 sentences of German law in the place of a domain corpus",
)


def trials(run: ClaimRun, seed: int) -> dict[str, Any]:
    """Both arms' records: standard pre-training or with the domain in it, then fine-tuning on the domain alone."""
    domain = {"path": rows.domain()["train"], "name": "domain", "limit": SENTENCES}
    general = {"path": _fresh.general(), "name": "general"}
    mixed = [{**general, "weight": 1 - SHARE}, {**domain, "weight": SHARE}]
    after = _fresh.stage("domain", [domain], FINE_TUNING, 1e-3)
    return {
        name: run.trial(
            name,
            seed,
            model=_fresh.model(seed),
            data={"train": [general, domain]},
            stages=[_fresh.stage("pretraining", data, PRETRAINING, 3e-3), after],
        )
        for name, data in (("spt", mixed), ("standard", [general]))
    }


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the domain's other sentences after both stages, nats a token."""
    return {name: record.tuned.target for name, record in trials(run, seed).items()}
