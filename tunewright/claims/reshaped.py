"""How far a change of a model's shape alone moves what the model says: for claims about growth that keeps it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tunewright.loading.load import load
from tunewright.models.sites import Structure
from tunewright.models.surgery import Surgery

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS, TOKENS = 8, 48

Change = Callable[[Any, Structure, random.Random], Surgery]


@torch.no_grad()
def moved(run: ClaimRun, seed: int, change: Change) -> float:
    """Mean KL(base || changed), in nats per token, on `ROWS` rows of `TOKENS` ids that the base itself writes.

    `change(model, structure, rng)` gives the surgery, drawn by the seed. Nothing trains.
    """
    loaded = load(run.task["model"], run.task["task"])
    adapted, model = loaded.adapted(), loaded.model
    ids = _written(model, seed)
    before = torch.log_softmax(model(ids).logits.float(), -1)  # type: ignore[operator]
    adapted.operate(change(model, adapted.structure, random.Random(f"{seed}/reshaped")))
    after = torch.log_softmax(model(ids).logits.float(), -1)  # type: ignore[operator]
    return float((before.exp() * (before - after)).sum(-1).mean())


def _written(model: Any, seed: int) -> torch.Tensor:
    """Ids [ROWS, TOKENS], each drawn from what the model gives for those before it; the first ones evenly."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (ROWS, 1), generator=draw)
    while ids.shape[1] < TOKENS:
        shares = torch.softmax(model(ids).logits[:, -1].float(), -1)
        ids = torch.cat([ids, torch.multinomial(shares, 1, generator=draw)], 1)
    return ids
