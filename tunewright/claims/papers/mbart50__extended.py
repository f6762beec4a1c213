"""A model that takes in new languages beside its old ones keeps the old ones, which it loses by the new ones alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _chosen
from tunewright.claims.papers import _encoder_decoders as models
from tunewright.claims.papers import _verses as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="mbart50",
    says="A BART of two languages that goes on with these and with two new ones has a lower loss on texts of the old "
    "ones, by 0.1 nats a token or more, than one that goes on with the new ones alone, for about as many "
    "tokens of them.",
    task="translation",
    method=Arm(name="old-and-new", methods=["full"], uses=["text-infilling"]),
    baselines=[Arm(name="new-alone", methods=["full"], uses=["text-infilling"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a BART of 0.3M parameters, verses, and verses mended by their first half instead of translations; all "
    "four languages come equally often; one rate",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of other verses in the old languages, mended by their first half; beside it before, and in the new ones."""
    model = lab.known(run, "old-and-new", seed)
    reads = {
        "old-and-new": models.reading("all", lab.texts((*lab.OLD, *lab.NEW)), 2 * lab.READ, "text-infilling"),
        "new-alone": models.reading("new", lab.texts(lab.NEW), lab.READ, "text-infilling"),
    }
    rows = _chosen.in_turn(lab.to_mend(lab.OLD), lab.to_mend(lab.NEW))
    out = {}
    for arm, read in reads.items():
        record = _chosen.finished(run, models.recipe(run, arm, seed, model, [read], rows))
        out[arm], out[f"{arm}, new languages"] = _chosen.means(record, 2)
    out["before"] = _chosen.means(record, 2, base=True)[0]
    return out
