"""Class prototypes: the mean features of each class as a classifier that nothing trains (SimpleCIL, Zhou et al. 2023,
arXiv:2303.07338). R rows, D size of the features, C classes.

    p_c = mean of the features of class c;      logit_c(f) = <f, p_c> / (|f| |p_c|), a cosine in [-1, 1]

A class that comes later adds its own prototype and changes no other, so that there is nothing to forget.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def class_means(features: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """{class: [D]}, fp32, in rising order of the classes that occur in `labels` [R]; `features` [R, D]."""
    return {int(c): features[labels == c].float().mean(0) for c in labels.unique()}


def cosine_logits(features: Tensor, prototypes: Tensor) -> Tensor:
    """[R, C] cosines of features [R, D] with prototypes [C, D], fp32. A vector of zeros is like nothing: cosine 0."""
    return F.normalize(features.float(), dim=-1) @ F.normalize(prototypes.float(), dim=-1).T
