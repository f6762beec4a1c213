"""How far a student's features are from a teacher's: the loss that this room's methods share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def feature_loss(student: Tensor, teacher: Tensor, cosine: float) -> Tensor:
    """The loss of each place [N] from projected student and teacher features [N, D], in fp32."""
    s, t = student.float(), teacher.detach().float()
    return cosine * (1 - F.cosine_similarity(s, t, dim=-1)) + (1 - cosine) * F.smooth_l1_loss(
        s, t, reduction="none"
    ).mean(-1)
