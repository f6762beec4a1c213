"""Most wrong answers have some chain of the model's own blocks that is right: more than an arbitrary class has."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab.vit import pixels
from tunewright.loading.load import load
from tunewright.methods.test_time.chain_of_layers import Chain, ChainOfLayers, search
from tunewright.models.chained import chained
from tunewright.models.sites import Structure

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS = 25
CLAIM = Claim(
    paper="chain-of-layers",
    says="For most rows that a frozen model gets wrong, tree search that knows the answer finds a chain of its blocks "
    "that is right, more often than the same search for a class drawn at random among the other wrong ones, and more "
    "often than the chain of highest confidence is right.",
    task="digits",
    method=Arm(name="oracle", methods=["full"], uses=["chain-of-layers"]),
    baselines=[Arm(name="other-class", methods=["full"]), Arm(name="confidence", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.1,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="a ViT of six blocks that knows digits upright, on digits turned by a right angle, instead of language "
    "models on questions; 25 wrong rows a seed, 64 chains each; the paper has no control for what the search can reach "
    "by chance, and no score without labels",
)


class _Row:
    """A picture's logits by chain, each made once."""

    def __init__(self, model: Any, structure: Structure, x: Tensor):
        self.model, self.structure, self.x = model, structure, x
        self.seen: dict[Chain, Tensor] = {}

    def logits(self, chain: Chain) -> Tensor:
        if chain not in self.seen:
            with chained(self.model, self.structure, chain):
                self.seen[chain] = self.model(self.x).logits[0].float()
        return self.seen[chain]

    def answer(self, chain: Chain) -> int:
        return int(self.logits(chain).argmax())

    def best(self, wanted: int | None, rng: random.Random) -> Chain:
        """The chain that the method's search finds where `wanted` is the right answer; None: by confidence."""
        method, blocks = ChainOfLayers(), len(self.structure.blocks)

        def value(chain: Chain) -> float:
            sure = float(self.logits(chain).softmax(-1).max())
            return (sure if wanted is None else float(self.answer(chain) == wanted)) - method.penalty * len(
                chain
            ) / blocks

        return search(value, blocks, simulations=method.simulations, rng=rng)


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of wrong rows whose best chain gives the right class, by three scores; of the control, the drawn class."""
    loaded = load(run.task["model"], run.task["task"])
    adapted, model = loaded.adapted(), cast(Any, loaded.model)
    names = [str(n) for n in model.config.id2label.values()]
    own = tuple(range(len(adapted.structure.blocks)))
    z = np.load(run.task["data"]["eval"][0]["path"])
    rng, found, done = random.Random(f"{seed}/chains"), {"oracle": 0, "other-class": 0, "confidence": 0}, 0
    for i in rng.sample(range(len(z["x"])), len(z["x"])):
        row, label = _Row(model, adapted.structure, pixels(z["x"][i : i + 1])), names.index(str(z["y"][i]))
        wrong = row.answer(own)
        if wrong == label:
            continue
        other = rng.choice([c for c in range(len(names)) if c not in (wrong, label)])
        for name, wanted in (("oracle", label), ("other-class", other), ("confidence", None)):
            best = row.best(wanted, random.Random(f"{seed}/{i}"))
            found[name] += row.answer(best) == (label if wanted is None else wanted)
        done += 1
        if done == ROWS:
            break
    return {name: count / done for name, count in found.items()}
