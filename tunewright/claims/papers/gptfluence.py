"""A simulator that is fitted to logged runs foretells losses under rows that it never saw better than plainer ways."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.tested import BASES
from tunewright.pieces.simulated_training import Logged, Simulator

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KINDS, EACH, NEW, ASKED, LONGEST = 4, 40, 20, 3, 24
"""Kinds of text; rows of each that logged runs learn, that new runs learn, and that are followed; tokens of a row."""
LOGGED, AHEAD, STEPS, BATCH, RATE = 8, 3, 20, 4, 3e-4

CLAIM = Claim(
    paper="gptfluence",
    says="Of runs on rows that no logged run had, a simulator that is fitted to eight logged runs foretells the losses "
    "of followed rows after every step with a mean squared error that is smaller by at least a tenth than that of the "
    "logged runs' mean path, and than that of products of gradients, scaled by the logged runs.",
    task="domain",
    method=Arm(name="gptfluence", methods=["full"], uses=["gptfluence"]),
    baselines=[Arm(name="mean-path", methods=["full"]), Arm(name="gradients", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    relative=True,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters and 20 steps of AdamW (there: up to 2.8B, hundreds of steps); every run learns "
    "two of four kinds of text; features are the model's own; gradients of all weights are taken at the start alone, "
    "where TracIn takes them at several checkpoints, and one factor over all rows is fitted for them",
)


def texts(seed: int) -> list[list[str]]:
    """Texts of each kind: customers of banks, German law, Genesis in Finnish, and web pages in English."""
    verses = [str(r["text"]) for r in corpus.rows("genesis-multilingual/train.jsonl.gz") if r["lang"] == "fi"]
    found = [
        [str(r["text"]).strip() for r in corpus.rows("banking77/train.jsonl.gz")],
        rows.sentences([r["text"] for r in corpus.rows("german-laws/train.jsonl.gz")]),
        verses,
        rows.sentences([r["text"] for r in corpus.rows("c4-web/train.jsonl.gz")]),
    ]
    return [rows.shuffled(sorted(set(some)), seed)[: EACH + NEW + ASKED] for some in found]


def loaded(seed: int) -> tuple[Any, list[Tensor]]:
    """(the base, token ids of each text, kind by kind)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASES / "nano")
    model = AutoModelForCausalLM.from_pretrained(BASES / "nano", dtype=torch.float32)
    ids = [torch.tensor(tokenizer(t)["input_ids"][:LONGEST]) for some in texts(seed) for t in some]
    return model, ids


def losses(model: Any, some: list[Tensor]) -> Tensor:
    """[n] mean loss of each text."""
    padded = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
    there = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in some], batch_first=True)
    logits = model(input_ids=padded, attention_mask=there).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none")
    return (each * there[:, 1:]).sum(1) / there[:, 1:].sum(1)


def runs(model: Any, ids: list[Tensor], places: list[int], rng: random.Random, new: bool) -> Iterator[Logged]:
    """Runs that each begin at the base and learn rows of two kinds, with the losses of the followed rows."""
    start = {k: v.clone() for k, v in model.state_dict().items()}
    size, asked = EACH + NEW + ASKED, [ids[p] for p in places]
    for _ in range(AHEAD if new else LOGGED):
        model.load_state_dict(start)
        of_kind = range(EACH, EACH + NEW) if new else range(EACH)
        pool = [k * size + i for k in rng.sample(range(KINDS), 2) for i in of_kind]
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        order, curve = list[list[int]](), list[Tensor]()
        for step in range(STEPS + 1):
            with torch.no_grad():
                curve.append(losses(model, asked))
            if step < STEPS:
                order.append(rng.sample(pool, BATCH))
                optimizer.zero_grad()
                losses(model, [ids[i] for i in order[-1]]).mean().backward()
                optimizer.step()
        yield Logged(torch.tensor(order), torch.stack(curve))
    model.load_state_dict(start)


def products(model: Any, ids: list[Tensor], places: list[int]) -> Tensor:
    """[N, m] products of the gradients of all rows and of the followed ones."""

    def gradient(i: int) -> Tensor:
        found = torch.autograd.grad(losses(model, [ids[i]])[0], list(model.parameters()))
        return torch.cat([g.flatten() for g in found])

    wanted = torch.stack([gradient(p) for p in places])
    return torch.stack([wanted @ gradient(i) for i in range(len(ids))])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean squared error of the new runs' curves; beside it of curves that do not move."""
    model, ids = loaded(seed)
    rng, size = random.Random(seed), EACH + NEW + ASKED
    places = [k * size + EACH + NEW + i for k in range(KINDS) for i in range(ASKED)]
    with torch.enable_grad():
        known = list(runs(model, ids, places, rng, new=False))
        ahead = list(runs(model, ids, places, rng, new=True))
        alike = products(model, ids, places)
    with torch.no_grad():
        features = torch.stack([model(x[None], output_hidden_states=True).hidden_states[-1][0].mean(0) for x in ids])
    simulator = Simulator(features, 64, torch.Generator().manual_seed(seed))
    simulator.fit(known, features, features[places], passes=100, rate=1e-3)
    mean = torch.stack([r.losses - r.losses[0] for r in known]).mean(0)

    def summed(r: Logged) -> Tensor:
        return torch.cat([torch.zeros(1, len(places)), alike[r.rows].sum(1).cumsum(0)])

    moved = torch.cat([(r.losses - r.losses[0]).flatten() for r in known])
    said = torch.cat([summed(r).flatten() for r in known])
    factor = (said @ moved) / (said @ said)
    found: dict[str, list[Tensor]] = {"gptfluence": [], "mean-path": [], "gradients": [], "base": []}
    for r in ahead:
        told = {
            "gptfluence": simulator.curves(r.losses[0], r.rows, features, features[places]),
            "mean-path": r.losses[0] + mean,
            "gradients": r.losses[0] + factor * summed(r),
            "base": r.losses[:1].expand_as(r.losses),
        }
        for arm, curves in told.items():
            found[arm].append((curves - r.losses)[1:].square().mean())
    return {arm: float(torch.stack(errors).mean()) for arm, errors in found.items()}
