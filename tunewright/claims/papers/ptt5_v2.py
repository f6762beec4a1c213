"""A T5 that goes on in a language learns a task in it better than one that learns the task alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _encoder_decoders as models
from tunewright.claims.papers import _portuguese as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="ptt5-v2",
    says="A T5 of English that goes on with span corruption in Portuguese and then learns a task from 150 rows has a "
    "lower loss on the task, by 0.05 nats a token or more, than one that learns the task alone, whether for as many "
    "tokens of it or for as many in all.",
    task="domain",
    method=Arm(name="continued", methods=["full"], uses=["span-corruption"]),
    baselines=[Arm(name="task-alone", methods=["full"]), Arm(name="task-alone-longer", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a T5 of 0.3M parameters that has read 60,000 tokens of English; verses of Genesis, and how they end as "
    "the task, for web pages and the paper's three sets; the task's rate is one of two, chosen on other rows",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the ends of other verses, nats a token."""
    model = lab.english(run, "continued", seed)
    read = models.reading("portuguese", lab.texts()[0], lab.READ, "span-corruption")
    continued = lab.gone_on(run, "continued", seed, model, read)
    return {
        "continued": lab.task(run, "continued", seed, continued),
        "task-alone": lab.task(run, "task-alone", seed, model),
        "task-alone-longer": lab.task(run, "task-alone-longer", seed, model, lab.READ + lab.TASK),
    }
