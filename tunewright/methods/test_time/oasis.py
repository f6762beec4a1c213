"""OASIS: learn from the answers that two readings of a row agree on, and only where a stream has moved (Kim, Joe and
Kwon 2025, arXiv:2508.16656; papers: oasis).

Of each batch x [R, ...] of the stream, with logits f(x) [R, V], p = softmax f(x), pooled features h [R, D], rows w_c of
the head, m = mean_r p_r, and a running mean q [V] of the m (the first batch's to begin with):

    reliable_r = max p_r >= reliable  and  argmax_c p_rc = argmax_c cos(h_r, w_c)
    active     = mean_r max p_r < sure  or  1 - cos(m, q) > moved;        then q <- memory q + (1 - memory) m
    loss       = sum_r v_r CE_r / sum_r v_r over reliable rows,   CE_r = -log p_r[y_r],  y_r = argmax p_r,
                 v_r = 1 / q_{y_r};         (gamma, beta) of the norms <- Adam step, where active and a row is reliable

A batch is answered by the forward that it is judged by: one forward, and a backward only where the stream is active.
Rows of classes that nobody trained on are seldom reliable, and teach nothing; a class that the stream has much of does
not drown the others, whatever the shares were in training. The other half of the paper, which makes pseudo-labels worth
believing for rare classes, is `borderline-contrast` in a stage before.

Defaults: reliable 0.9, sure 0.9, moved 0.1, memory 0.9, learning rate 1e-3 (ours). Raises MethodError for a model
without norms that have a scale. Differs from the paper in: reconstructed from its abstract, which names reliable
pseudo-labels, label shift, changed looks, unknown classes and criteria for when to adapt, and no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.method import Candidates, Method, State
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.pieces.heads import classifier_head, pooled_features
from tunewright.pieces.norms import norm_parameters
from tunewright.pieces.prototypes import cosine_logits


class OASIS(Method):
    """Descend the balanced cross-entropy of reliable pseudo-labels over the norms, at batches that moved."""

    learning_rate: PositiveFloat = Field(1e-3, description="of Adam, a batch that is learnt from")
    reliable: float = Field(
        0.9, ge=0, le=1, description="least probability of a class for a row to teach it", examples=[1.0, 0.0]
    )
    sure: float = Field(
        0.9,
        ge=0,
        le=1,
        description="mean confidence of a batch below which it is learnt from; 0: only where the classes moved",
        examples=[0.0, 1.0],
    )
    moved: NonNegativeFloat = Field(
        0.1,
        description="cosine distance of a batch's classes from the running mean above which it is learnt from",
        examples=[2.0],
    )
    memory: float = Field(
        0.9, ge=0, lt=1, description="share of itself that the running mean of the classes keeps", examples=[0.5]
    )
    batch_statistics: bool = Field(
        True, description="batch norm takes mean and variance of the present batch (no effect without batch norm)"
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("oasis",)
    conformance: ClassVar[dict[str, object]] = {"reliable": 0.0, "sure": 0.0, "moved": 0.0}

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """Scale and shift of every norm."""
        return norm_parameters(candidates)

    def adapt(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        weights: Moving,
        model: nn.Module,
        state: State,
    ) -> Tensor:
        outputs = forward(batch, grad=True, batch_statistics=self.batch_statistics)
        with torch.no_grad():
            sure, said = outputs.logits.float().softmax(-1).max(-1)
            mean = outputs.logits.float().softmax(-1).mean(0)
            before = state.get("classes", mean)
            by_features = cosine_logits(pooled_features(outputs), classifier_head(model).weight).argmax(-1)
            taught = (sure >= self.reliable) & (by_features == said)
            active = bool(sure.mean() < self.sure) or bool(1 - F.cosine_similarity(mean, before, dim=0) > self.moved)
            seen = self.memory * before + (1 - self.memory) * mean
            state.set_buffer("classes", seen)
        if active and bool(taught.any()):
            share = 1 / seen[said].clamp(min=torch.finfo(seen.dtype).eps) * taught
            each = F.cross_entropy(outputs.logits.float(), said, reduction="none")
            weights.descend((share * each).sum() / share.sum(), self._optimizer)
        return outputs.logits

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.learning_rate)
