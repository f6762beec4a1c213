"""Draws from other tasks' classifiers are certified by 64 rows, and least squares on these rows are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.pieces import certificates
from tunewright.pieces.diffusion import Diffusion, whitened

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

WIDTH, KINDS, APART = 200, 8, 0.3
"""Numbers of a classifier; kinds of tasks; length of what tells two tasks of a kind apart, against their own."""
UPSTREAM, LEARNT, NEW, PICKED, DRAWS = 100, 2000, 60, 64, 500
FAILURE, GUESSING = 0.05, 0.5

CLAIM = Claim(
    paper="steel",
    says="In nearly all tasks, what 64 rows pick of 500 draws is certified to err less than guessing does, and truly "
    "errs no more than is certified; a classifier of 200 numbers that is fitted to the rows is certified in none.",
    task="intents",
    method=Arm(name="steel", methods=["lora"]),
    baselines=[Arm(name="fitted", methods=["lora"])],
    metric="measured",
    direction="higher",
    smallest=0.95,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="linear classifiers of 200 normal inputs, whose true errors are exact, in the place of adapters of CLIP "
    "and language models: the diffusion model and the bounds are the method's, the model is not",
)


def _tasks(count: int, kinds: Tensor, generator: torch.Generator) -> Tensor:
    """[count, WIDTH] of length 1: one of the kinds each, moved by a normal vector of length APART."""
    near = torch.randn(count, WIDTH, generator=generator) * APART / WIDTH**0.5
    w = kinds[torch.randint(KINDS, (count,), generator=generator)] + near
    return w / w.norm(dim=1, keepdim=True)


def _fitted(x: Tensor, y: Tensor) -> Tensor:
    """The least-squares classifier of least length."""
    return torch.linalg.lstsq(x, y[:, None], driver="gelsd").solution[:, 0]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new tasks with a certificate below guessing that the true error, an angle over pi, does not exceed."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.nn.functional.normalize(torch.randn(KINDS, WIDTH, generator=generator), dim=1)

    def rows(w: Tensor, count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, WIDTH, generator=generator)
        return x, torch.where(x @ w > 0, 1.0, -1.0)

    upstream = torch.stack([_fitted(*rows(w, LEARNT)) for w in _tasks(UPSTREAM, kinds, generator)])
    z, back, mean = whitened(upstream)
    model = Diffusion(z.shape[1], hidden=128, timesteps=100, generator=generator)
    model.fit(z, 2000)
    draws = mean + model.draw(DRAWS) @ back
    good = {"steel": 0, "fitted": 0}
    for w in _tasks(NEW, kinds, generator):
        x, y = rows(w, PICKED)
        likelihood = torch.nn.functional.logsigmoid(y[:, None] * (x @ draws.T)).sum(0)
        for arm, found in (("steel", draws[likelihood.argmax()]), ("fitted", _fitted(x, y))):
            errors = int((x @ found * y <= 0).sum())
            bound = (
                certificates.binomial(errors, PICKED, DRAWS, FAILURE)
                if arm == "steel"
                else errors / PICKED + certificates.continuous(PICKED, WIDTH, FAILURE)
            )
            true = float(torch.arccos(torch.nn.functional.cosine_similarity(found, w, dim=0)) / torch.pi)
            good[arm] += true <= bound < GUESSING
    return {arm: count / NEW for arm, count in good.items()}
