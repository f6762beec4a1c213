"""Most wrong answers have some chain of the model's own blocks that is right: more than an arbitrary class has."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab.vit import pixels
from tunewright.loading.load import load
from tunewright.methods.test_time.chain_of_layers import Chain, ChainOfLayers, search
from tunewright.models.chained import chained

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


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of wrong rows whose best chain gives the right class, by three scores; of the control, the drawn class."""
    loaded = load(run.task["model"], run.task["task"])
    adapted, model = loaded.adapted(), loaded.model
    assert model is not None
    names = [str(n) for n in model.config.id2label.values()]
    z = np.load(run.task["data"]["eval"][0]["path"])
    rng, found = random.Random(f"{seed}/chains"), {"oracle": 0, "other-class": 0, "confidence": 0}
    order = rng.sample(range(len(z["x"])), len(z["x"]))
    method, blocks, done = ChainOfLayers(), len(adapted.structure.blocks), 0
    for i in order:
        x, label = pixels(z["x"][i : i + 1]), names.index(str(z["y"][i]))
        seen: dict[Chain, torch.Tensor] = {}

        def run_chain(chain: Chain, x: Any = x, seen: dict[Chain, torch.Tensor] = seen) -> torch.Tensor:
            if chain not in seen:
                with chained(model, adapted.structure, chain):
                    seen[chain] = model(x).logits[0].float()
            return seen[chain]

        answer = int(run_chain(tuple(range(blocks))).argmax())
        if answer == label:
            continue
        other = rng.choice([c for c in range(len(names)) if c not in (answer, label)])
        scores = {
            "oracle": lambda c, t=label, r=run_chain: float(int(r(c).argmax()) == t),
            "other-class": lambda c, t=other, r=run_chain: float(int(r(c).argmax()) == t),
            "confidence": lambda c, r=run_chain: float(r(c).softmax(-1).max()),
        }
        for name, score in scores.items():
            wanted = other if name == "other-class" else label
            best = search(
                lambda c, s=score: s(c) - method.penalty * len(c) / blocks,
                blocks,
                simulations=method.simulations,
                rng=random.Random(f"{seed}/{i}"),
            )
            found[name] += int(run_chain(best).argmax()) == wanted
        done += 1
        if done == ROWS:
            break
    return {name: count / done for name, count in found.items()}
