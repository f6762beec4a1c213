"""How far what one model says of a target is from what another says."""

from __future__ import annotations

from torch import Tensor


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) [S] from logits [S, V]; no gradient reaches the teacher."""
    p, q = (x.float().div(temperature).log_softmax(-1) for x in (teacher.detach(), student))
    return (p.exp() * (p - q)).sum(-1)
