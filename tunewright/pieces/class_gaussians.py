"""What is kept of a class's rows once they are gone: mean and covariance of its features, from which a head is trained
again for all classes together (classifier alignment: SLCA, Zhang et al. 2023, arXiv:2303.05118). D size of the
features, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGE = 1e-4
"""Added to every variance, so that fewer rows than features give a covariance that can be drawn from (SLCA's value)."""
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Of the alignment's SGD (SLCA's values)."""


def class_covariances(features: Tensor, labels: Tensor, *, diagonal: bool = False) -> dict[int, Tensor]:
    """{class: [D, D]}, or [D] of variances where `diagonal`; fp32, unbiased, plus RIDGE on the diagonal.

    `features` [R, D], `labels` [R]. A class of one row has no spread but RIDGE.
    """
    found: dict[int, Tensor] = {}
    for c in labels.unique():
        own = features[labels == c].float()
        centred = own - own.mean(0)
        rows = max(1, len(own) - 1)
        if diagonal:
            found[int(c)] = centred.square().sum(0) / rows + RIDGE
        else:
            found[int(c)] = centred.T @ centred / rows + RIDGE * torch.eye(own.shape[1], device=own.device)
    return found


def drawn(means: Tensor, roots: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[C, count, D] features from normal distributions with `means` [C, D].

    `roots`: lower Cholesky factors [C, D, D] of covariances, or standard deviations [C, D]. `generator` is the CPU's.
    """
    z = torch.randn(len(means), count, means.shape[1], generator=generator).to(means.device)
    spread = z * roots[:, None] if roots.dim() == 2 else z @ roots.transpose(1, 2)
    return means[:, None] + spread


def aligned_head(
    weight: Tensor,
    bias: Tensor | None,
    means: Tensor,
    covariances: Tensor,
    *,
    epochs: int,
    rows: int,
    rate: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """A linear head [C, D] and its bias [C] (or none), trained on features that are drawn for all classes alike; fp32.

    Each epoch draws `rows` features of each class from N(means [C, D], covariances [C, D, D] or variances [C, D]) and
    takes C steps of SGD on `rows` of them each, in random order; the rate falls by a cosine from epoch to epoch.
    """
    w = weight.detach().float().clone().requires_grad_()
    b = None if bias is None else bias.detach().float().clone().requires_grad_()
    optimizer = torch.optim.SGD(
        [p for p in (w, b) if p is not None], lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    roots = covariances.sqrt() if covariances.dim() == 2 else torch.linalg.cholesky(covariances)
    labels = torch.arange(len(means), device=means.device).repeat_interleave(rows)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        features = drawn(means, roots, rows, generator).flatten(0, 1)
        order = torch.randperm(len(labels), generator=generator).to(means.device)
        for some in order.split(rows):
            with torch.enable_grad():
                loss = F.cross_entropy(F.linear(features[some], w, b), labels[some])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return w.detach(), None if b is None else b.detach()
