"""For three quarters of the rows that a model gets right, fewer of its blocks are enough."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab.vit import pixels
from tunewright.loading.load import load
from tunewright.methods.test_time.chain_of_layers import Chain, ChainOfLayers, search
from tunewright.models.chained import chained

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS = 10
CLAIM = Claim(
    paper="chain-of-layers",
    says="For more than 75 % of the rows that the frozen model gets right, tree search that knows the answer finds a "
    "shorter chain of its blocks that is right, too.",
    task="digits",
    method=Arm(name="shorter", methods=["full"], uses=["chain-of-layers"]),
    metric="measured",
    direction="higher",
    smallest=0.75,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="a ViT of six blocks on the upright digits that it knows; 10 rows a seed, 64 chains each; the search knows "
    "the answer, as in the paper",
)


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of right rows whose best chain is right with fewer blocks than the model has."""
    loaded = load(run.task["model"], run.task["task"])
    structure, model = loaded.adapted().structure, cast(Any, loaded.model)
    names = [str(n) for n in model.config.id2label.values()]
    own, method = tuple(range(len(structure.blocks))), ChainOfLayers()
    z = np.load(run.task["keep"][0]["data"])
    found, done = 0, 0
    for i in random.Random(f"{seed}/shorter").sample(range(len(z["x"])), len(z["x"])):
        x, label = pixels(z["x"][i : i + 1]), names.index(str(z["y"][i]))

        def right(chain: Chain, x: torch.Tensor = x, label: int = label) -> bool:
            with chained(model, structure, chain):
                return int(model(x).logits.argmax()) == label

        if not right(own):
            continue

        def value(chain: Chain, right: Any = right) -> float:
            return float(right(chain)) - method.penalty * len(chain) / len(own)

        best = search(value, len(own), simulations=method.simulations, rng=random.Random(f"{seed}/{i}"))
        found += right(best) and len(best) < len(own)
        done += 1
        if done == ROWS:
            break
    return {"shorter": found / done}
