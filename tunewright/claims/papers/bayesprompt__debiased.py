"""Few rows that were moved to be a sample of the domain's mixture have a mean that is nearer to the domain's."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.bayesprompt import DRAWN
from tunewright.loading.load import load
from tunewright.methods.adapters.bayesprompt import BayesPrompt
from tunewright.pieces.mixtures import fitted
from tunewright.pieces.stein import moved

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHOTS = 12

CLAIM = Claim(
    paper="bayesprompt",
    says="The mean of twelve rows' embeddings, of two topics alone, is at most half as far from the mean of all rows' "
    "once they were moved by the mixture of all twelve topics.",
    task="intents",
    method=DRAWN,
    baselines=[Arm(name="rows")],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.5,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the paper shows a picture of samples and no figure; embeddings of a small base before any training",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Distance of means from the domain's: of the moved rows, and of the rows themselves."""
    loaded, rng, plain = load(run.task["model"], run.task["task"]), random.Random(f"bayesprompt/{seed}"), BayesPrompt()
    model: Any = loaded.model
    table = model.get_input_embeddings().weight.detach()
    lines = (rows.QUICKSTART / "train.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    x = torch.stack([table[loaded.tokenizer(str(r["prompt"]))["input_ids"]].mean(0) for r in told]).double()
    topics = rng.sample(sorted({str(r["completion"]) for r in told}), 2)
    few = x[rng.sample([i for i, r in enumerate(told) if str(r["completion"]) in topics], SHOTS)]
    mixture = fitted(x, 12, plain.floor, rng)
    there = moved(few, mixture.score, plain.moves, plain.rate)
    return {n: float((m.mean(0) - x.mean(0)).norm()) for n, m in (("bayesprompt", there), ("rows", few))}
