"""Ranks by variance explained hold more of the variance of inputs than the same rank everywhere, also of new rows."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers.mos__prototypes import rows_of, tokens_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

RANK, READ, BATCH = 16, 256, 32
CLAIM = Claim(
    paper="eva",
    says="At one budget of ranks, directions that are shared out by the variance that they explain in 256 rows hold "
    "more of the variance of the inputs of new rows, summed over layers, than as many directions for every layer, and "
    "these more than random ones.",
    task="topics",
    method=Arm(name="shared-out", methods=[{"eva": {"rank": RANK}}]),
    baselines=[
        Arm(name="even", methods=[{"eva": {"rank": RANK, "rho": 1.0}}]),
        Arm(name="random", methods=[{"lora": {"rank": RANK}}]),
    ],
    metric="measured",
    direction="higher",
    smallest=0.002,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="what the initialisation promises, before any training; the paper reports what is learnt",
)


def _held(x: Tensor, directions: Tensor) -> float:
    """Share of the variance of rows [n, in] along directions [r, in]."""
    x = x - x.mean(0)
    rows = torch.linalg.qr(directions.t()).Q
    return float((x @ rows).square().sum() / x.square().sum())


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over layers of the share of the variance of the judged rows' inputs that each arm's directions hold."""
    from tunewright.loading.load import load
    from tunewright.methods.needs.explained_variance import directions

    recipe = run.recipe("even", seed)
    loaded = load(run.task["model"], run.task["task"], labels=recipe.data.labels or tuple("0123456789"))
    adapted, tokenizer = loaded.adapted(), loaded.tokenizer
    model: Any = adapted.model.eval()
    picked = random.Random(f"{seed}/variance").sample(rows_of(recipe.data.train), READ)
    batches: list[Any] = [tokens_of(tokenizer, picked[i : i + BATCH]) for i in range(0, READ, BATCH)]
    sites = adapted.structure.linear_sites()
    ranks = {s.name: RANK for s in sites}

    def read(inputs: Any) -> Any:
        return model(**inputs)

    def counted(inputs: Any) -> Tensor:
        return inputs["attention_mask"].flatten().bool()  # type: ignore[no-any-return]

    found = {rho: directions(sites, ranks, rho, 1.0, read, batches, counted) for rho in (2.0, 1.0)}
    seen: dict[str, Tensor] = {}
    new = tokens_of(tokenizer, rows_of(recipe.data.eval)[: recipe.measurement.rows])
    mask = new["attention_mask"].flatten().bool()
    hooks = [
        s.module.register_forward_pre_hook(lambda _, args, n=s.name: seen.update({n: args[0].flatten(0, 1)[mask]}))
        for s in sites
    ]
    model(**new)
    for hook in hooks:
        hook.remove()
    drawn = torch.Generator().manual_seed(seed)
    shares: dict[str, list[float]] = {"shared-out": [], "even": [], "random": []}
    for s in sites:
        of = {
            "shared-out": found[2.0][f"components.{s.name}"],
            "even": found[1.0][f"components.{s.name}"],
            "random": torch.randn(RANK, s.in_features, generator=drawn),
        }
        for arm, rows in of.items():
            shares[arm].append(_held(seen[s.name], rows) if len(rows) else 0.0)
    return {arm: sum(values) / len(values) for arm, values in shares.items()}
