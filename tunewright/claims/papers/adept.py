"""A copied block whose outputs are zero leaves what a model says as it is; a plain copy does not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.reshaped import moved
from tunewright.models.blocks_moved import Rearranged
from tunewright.models.sites import Structure

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="adept",
    says="Expansion by a copied block with zero outputs keeps what the model knows; repeating the block does not.",
    task="intents",
    method=Arm(name="silent", methods=["adept"]),
    baselines=[Arm(name="repeated", methods=[{"bert2bert": {"width": 1, "depth": 1.25}}])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    rates=(),
    differs="divergence from the base before any training, in nats per token, of one block that is drawn by the seed; "
    "gains in a domain are the claim adept--kept",
)


def _copied(structure: Structure, rng: random.Random, *, silent: bool) -> Rearranged:
    blocks = len(structure.blocks)
    at = rng.randrange(blocks)
    return Rearranged([*range(at + 1), *range(at, blocks)], [at + 1] if silent else [])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Divergence of both deeper models from the base."""

    def change(silent: bool) -> Any:
        return lambda model, structure, rng: _copied(structure, rng, silent=silent)

    return {"silent": moved(run, seed, change(True)), "repeated": moved(run, seed, change(False))}
