"""Entropies of a classifier's answers, in nats. Shapes: R rows, V classes, N views."""

from __future__ import annotations

import math

from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """[R] of logits [R, V]: 0 where the model is sure, log V where it cannot tell."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """[R]: -sum_v p_teacher log p_student from logits [R, V]; no gradient reaches the teacher."""
    return -(teacher.detach().float().softmax(-1) * student.float().log_softmax(-1)).sum(-1)


def mean_log_probs(logits: Tensor) -> Tensor:
    """[R, V]: the logarithm of the mean distribution over N views, from logits [N, R, V]."""
    return logits.float().log_softmax(-1).logsumexp(0) - math.log(len(logits))
