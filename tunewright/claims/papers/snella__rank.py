"""A kernel of thin matrices makes changes of a higher rank than their product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SIZE, RANK, SPARSITY = 128, 16, 0.8
SHARE = 0.01
"""A singular value counts from this share of the largest on."""

CLAIM = Claim(
    paper="snella",
    says="At its start SNELLA's change of a layer, made of as many numbers as a low-rank pair of rank 16, has at least "
    "twice as many singular values above a hundredth of the largest as the pair's product can have, and as it has when "
    "its smallest four entries in five are cut.",
    task="topics",
    method=Arm(name="kernel", methods=[{"snella": {"rank": RANK, "sparsity": SPARSITY}}]),
    baselines=[Arm(name="product", methods=[{"lora": {"rank": RANK}}])],
    metric="measured",
    direction="higher",
    relative=True,
    smallest=1.0,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="one matrix of 128 x 128 as it is drawn, trained on nothing; the product's bound is its rank",
)


def counted(change: torch.Tensor) -> float:
    """How many singular values are above the share."""
    values = torch.linalg.svdvals(change.double())
    return float((values > SHARE * values[0]).sum())


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Singular values that count of a cut kernel and of a low-rank product, both of normal draws' size."""
    from tunewright.models.kernel_sparse import KernelSparse

    generator = torch.Generator().manual_seed(seed)
    bound = (SIZE * RANK / 2) ** -0.5
    thin = [torch.empty(2, SIZE, RANK // 2).uniform_(-bound, bound, generator=generator) for _ in range(2)]
    kernel = KernelSparse(thin[0], thin[1], round((1 - SPARSITY) * SIZE * SIZE)).change().detach()
    A, B = (torch.randn(SIZE, RANK, generator=generator) for _ in range(2))
    return {"kernel": counted(kernel), "product": counted(B @ A.T)}
