"""A model widened by copies whose readers divide says what it said, where every channel is copied equally often."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.reshaped import moved
from tunewright.methods.surgery.bert2bert import Bert2Bert, drawn
from tunewright.models.sites import Structure
from tunewright.models.widening import Shape, Widened

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="bert2bert",
    says=(
        "Twice as wide by the function-preserving initialisation, a model says what the small one says before it "
        "trains; with the channels of the residual stream drawn, as in the paper, it does not."
    ),
    task="intents",
    method=Arm(name="even", methods=[{"bert2bert": {"knowledge": "fpi"}}]),
    baselines=[Arm(name="drawn", methods=[{"bert2bert": {"knowledge": "fpi"}}])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    rates=(),
    differs="divergence from the small model before any training, in nats per token; the paper's saving of compute in "
    "pre-training is not tested",
)


def even(model: Any, structure: Structure, rng: random.Random) -> Widened:
    (surgery,) = Bert2Bert(knowledge="fpi").prepare(model, structure, rng)
    assert isinstance(surgery, Widened)
    return surgery


def uneven(model: Any, structure: Structure, rng: random.Random) -> Widened:
    width = Shape.of(model).channels
    return Widened(**{**even(model, structure, rng).settings(), "channels": drawn(width, 2 * width, rng)})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Divergence of both wide models from the small one."""
    return {"even": moved(run, seed, even), "drawn": moved(run, seed, uneven)}
