"""How a T5 goes on in a language, by schedule and by passes, matters less for a task than that it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _encoder_decoders as models
from tunewright.claims.papers import _portuguese as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="ptt5-v2",
    says="What a task gains by going on in its language first is more than the largest difference between ways to go "
    "on: at a constant rate, at one that falls, and over a quarter of the texts, four times as often.",
    task="domain",
    method=Arm(name="going-on", methods=["full"], uses=["span-corruption"]),
    baselines=[Arm(name="ways", methods=["full"], uses=["span-corruption"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a T5 of 0.3M parameters, verses of Genesis and how they end; no filters by quality, of which verses need "
    "none, and one optimizer; differences of losses, where the paper compares scores in words",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Nats a token: what going on at a constant rate gains, and how far the three ways to go on lie apart."""
    model, texts = lab.english(run, "going-on", seed), lab.texts()[0]
    ways = {
        "constant": models.reading("portuguese", texts, lab.READ, "span-corruption"),
        "falling": models.reading("falling", texts, lab.READ, "span-corruption", lr_scheduler_type="linear"),
        "quarter": models.reading("quarter", texts[: len(texts) // 4], lab.READ, "span-corruption"),
    }
    found = {
        name: lab.task(run, "ways", seed, lab.gone_on(run, "ways", seed, model, read)) for name, read in ways.items()
    }
    gain = lab.task(run, "going-on", seed, model) - found["constant"]
    return {"going-on": gain, "ways": max(found.values()) - min(found.values()), **found}
