"""Core-tuning: classify mixed features and contrast them, hard pairs first (Zhang et al. 2021, arXiv:2102.06605;
papers: core-tuning).

With pooled features f [B, D] and one-hot labels y [B, C] of the whole optimizer batch, three sets of B rows are made:

    the features, detached;
    soft negatives   (1 - a) f + a f[shuffled],   a = max(Beta(alpha, alpha), least)
    hard positives   b f[p] + (1 - b) f[n],       b ~ Beta(alpha, alpha)
                     p: the least similar row of the same class, n: the most similar row of another (cosine)

labels mixed likewise. The loss, in nats, is the mean cross-entropy of the model's own head on all 3B rows, plus eta
times the focal supervised contrast of z = normalise(Linear-ReLU-Linear(.)), 3B rows again:

    l_ij = log softmax over j != i of z_i . z_j / temperature contrast = sum_i [ -1/(3B) sum_{j: y_j = y_i, j != i} (1 -
    e^l_ij) l_ij ] / (rows that have such a j);  0 without any

The weight 1 - e^l lies in 0..1 and carries gradient. The projection trains with the model and is not used afterwards.
Depends on the whole batch: micro-steps see the same pairs and give the same gradient. Rows' own weights do not count.
Draws are keyed by the optimizer step.

Source: Vanint/Core-tuning, Core-tuning.py. Differs from the paper in: the pairs are those that the text describes (the
code's search for p finds a masked zero, and so mostly the row itself; a row alone in its class does pair with itself
here); equal labels are compared as they are (the code packs them into one integer); the model's head keeps its bias.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.pieces.heads import classifier_head, pooled_features, pooled_head
from tunewright.pieces.seeded import uniform_linear


def hard_pairs(features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of [B, D]: the least similar other row of its class [B], the most similar row of another class [B].

    By cosine. A row that has no such partner is its own.
    """
    unit = F.normalize(features.detach().float())
    similarity = unit @ unit.T
    own = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    same = classes[:, None] == classes[None]
    rows = torch.arange(len(classes), device=classes.device)
    positive, negative = same & ~own, ~same
    furthest = similarity.masked_fill(~positive, torch.inf).argmin(1)
    nearest = similarity.masked_fill(~negative, -torch.inf).argmax(1)
    return torch.where(positive.any(1), furthest, rows), torch.where(negative.any(1), nearest, rows)


def mixed(
    features: Tensor, labels: Tensor, order: Tensor, a: Tensor, b: Tensor, pairs: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Features [3B, D] and soft labels [3B, C]: as they are (detached), mixed with a shuffle, and hard pairs mixed.

    `order` [B] is the shuffle, `a`, `b` [B] the shares in 0..1, `pairs` what `hard_pairs` gave.
    """

    def mix(x: Tensor) -> list[Tensor]:
        p, n = pairs
        return [(1 - a[:, None]) * x + a[:, None] * x[order], b[:, None] * x[p] + (1 - b[:, None]) * x[n]]

    return torch.cat([features.detach(), *mix(features)]), torch.cat([labels, *mix(labels)])


def focal_contrast(z: Tensor, labels: Tensor, temperature: float, focal: bool = True) -> Tensor:
    """Supervised contrast of unit rows z [N, d] with soft labels [N, C]: a scalar.

    Positives are rows with an equal label.
    """
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels[None]).all(-1) & ~own
    logp = torch.log_softmax((z @ z.T / temperature).masked_fill(own, -torch.inf), dim=1).masked_fill(own, 0.0)
    weight = (1 - logp.exp()) if focal else torch.ones_like(logp)
    a_row = -(weight * logp * positive).mean(1)
    return a_row.sum() / positive.any(1).sum().clamp(min=1)


class CoreTuning(Method):
    """Cross-entropy on mixed features plus focal supervised contrast of them."""

    eta: NonNegativeFloat = Field(0.1, description="weight of the contrast beside the cross-entropy", examples=[1.0])
    alpha: PositiveFloat = Field(
        1.0, description="both parameters of the Beta distribution that mixing shares are drawn from", examples=[0.2]
    )
    least: float = Field(
        0.8, ge=0, le=1, description="smallest share of the other row in a soft negative", examples=[0.2]
    )
    temperature: PositiveFloat = Field(0.07, description="divides the contrast's similarities", examples=[0.5])
    dimensions: PositiveInt = Field(256, description="width of the projection that is contrasted", examples=[8])
    focal: bool = Field(
        True,
        description="weigh each positive by how far it is from certain; off: plain supervised contrast",
        examples=[False],
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("core-tuning",)
    conformance: ClassVar[dict[str, object]] = {"dimensions": 6, "least": 0.0}

    def setup(self, run: Setup) -> State:
        width = classifier_head(run.adapted.model).in_features
        state: Any = State(seed=run.rng.getrandbits(31))
        generator = torch_generator(run.rng)
        state.inner = uniform_linear(width, width, generator)
        state.outer = uniform_linear(width, self.dimensions, generator)
        return state

    def objective(self, outputs: Outputs, batch: Batch, step: int, state: Any) -> Loss:
        rng, rows = random.Random(f"{state.data['seed']}/{step}"), len(batch.labels)
        features, head = pooled_features(outputs), pooled_head(outputs)
        device = features.device
        order = torch.tensor(rng.sample(range(rows), rows), device=device)
        shares = torch.tensor(
            [[rng.betavariate(self.alpha, self.alpha) for _ in range(rows)] for _ in range(2)], device=device
        )
        labels = F.one_hot(batch.labels, outputs.logits.shape[-1]).to(features.dtype)
        many, soft = mixed(
            features, labels, order, shares[0].clamp(min=self.least), shares[1], hard_pairs(features, batch.labels)
        )
        cross_entropy = F.cross_entropy(head(many).float(), soft.float())
        z = F.normalize(state.outer(F.relu(state.inner(many.float()))))
        return Loss(cross_entropy + self.eta * focal_contrast(z, soft, self.temperature, self.focal))
