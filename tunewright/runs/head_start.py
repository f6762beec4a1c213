"""Where a classifier's head that was drawn afresh starts: from a linear probe on the frozen features.

A head drawn at random answers by chance and sends gradients through the body that say nothing; the best linear head
for the features as they are is a second away (Kumar et al. 2022, arXiv:2202.10054: linear probing, then fine-tuning).
A head that came with the checkpoint is left as it is.

Features that hardly differ between rows give a probe weights so large that whatever dropout or the body's first steps
do to the features drowns what it tells: a regression of a table began at a loss of 0.5 and stood at 3,100 a step later.
The head therefore starts from the probe of the weakest penalty that is steady: under noise of the size that dropout of
a tenth makes (a third of each feature's root mean square), numbers are still told better than by one answer to all
rows, and the loss of classes, which recovers, is at most ten times that of one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.data.dataset import Dataset
from tunewright.measure import linear_probe
from tunewright.measure.cache import BaseCache
from tunewright.measure.drift import take_features
from tunewright.measure.linear_probe import LinearProbe
from tunewright.pieces.heads import classifier_head, classifier_head_name
from tunewright.runs.session import Session, StageInputs

NOISE = 1 / 3
"""Of a feature's root mean square: what dropout of a tenth makes of it, sqrt(0.1 / 0.9)."""
LOUDEST = 10.0
"""Of classes: how many times the loss of one answer to all rows noise may make it."""
DRAWS = 8
"""Draws of the noise by which a probe is judged."""
WEAKEST = 1e-6
"""C of the strongest penalty that is tried: it leaves next to nothing but the mean."""


def probe_of(session: Session, datasets: Sequence[Dataset], *, bias: bool = True, steady: bool = False) -> LinearProbe:
    """A probe on these rows, from the model as it is now: the untouched base. Kept by the base's and rows' hashes.
    `steady`: one that a head may start from.
    """
    settings = {
        "linear probe": len(session.options.labels or ()),
        "bias": bias,
        "steady": [NOISE, DRAWS, WEAKEST, LOUDEST] if steady else None,
        "precision": session.precision,
        "device": session.device,
        "threads": torch.get_num_threads(),
        "task": session.task.called,
        "vocabulary": session.recipe.new_tokens,
    }
    base = f"{session.loaded.hash}/{session.loaded.beside}"
    key = BaseCache().key(base, "/".join(d.hash for d in datasets), settings)
    (values, tensors), _ = BaseCache().cached(key, lambda: _fitted(session, datasets, bias, steady))
    return LinearProbe(tensors["weight"], tensors["bias"], values["c"], values["rows"])


def _fitted(
    session: Session, datasets: Sequence[Dataset], bias: bool, steady: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    every = [(d, i) for d in datasets for i in range(len(d.rows))]
    rows = [every[k][0].rows[every[k][1]] for k in linear_probe.draw(len(every))]
    features = take_features(session.adapted.model, session.task, rows).values.cpu()
    classes, task = len(session.options.labels or ()), session.task
    labels = [r.label for r in rows if r.label is not None]
    targets = [r.fields["target"] for r in rows] if task.other_problem else None

    def fitted(penalty: float | None = None) -> LinearProbe:
        if targets is not None:
            return linear_probe.fit_targets(features, targets, regression=task.scores, bias=bias, penalty=penalty)
        return linear_probe.fit(features, labels, classes, bias=bias, penalty=penalty)

    def loss(logits: Tensor) -> float:
        """Mean loss of logits [R, V]: squared, or nats."""
        if targets is None:
            return float(nn.functional.cross_entropy(logits, torch.tensor(labels)))
        right = torch.tensor(targets, dtype=logits.dtype)
        measure = nn.functional.mse_loss if task.scores else nn.functional.binary_cross_entropy_with_logits
        return float(measure(logits, right))

    probe = fitted()
    if steady:
        probe = steadied(probe, fitted, loss, features, 1.0 if task.scores else LOUDEST)
    return {"c": probe.c, "rows": probe.rows}, {"weight": probe.weight, "bias": probe.bias}


def steadied(
    probe: LinearProbe,
    fitted: Callable[[float], LinearProbe],
    loss: Callable[[Tensor], float],
    features: Tensor,
    times: float,
) -> LinearProbe:
    """The probe, or `fitted` with ten times the penalty, and so on, until noise on features [R, D] leaves its loss
    below so many `times` that of one answer to all rows. `loss`: of logits [R, V]. The last tried where none is steady.
    """
    features = features.double()
    spread = NOISE * features.square().mean(0).sqrt()
    constant = loss(fitted(WEAKEST * 1e-6).logits(features))

    def noisy(probe: LinearProbe) -> float:
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.randn(features.shape, dtype=torch.float64, generator=generator) for _ in range(DRAWS))
        return sum(loss(probe.logits(features + spread * some)) for some in drawn) / DRAWS

    while probe.c > WEAKEST and noisy(probe) >= times * constant:
        probe = fitted(probe.c / 10)
    return probe


def starts_from_probe(session: Session, part: StageInputs) -> bool:
    """Whether a stage's head is to be set: it was drawn afresh, the stage begins at the base, the recipe has not said
    `head: random`, and no method has the rows to itself.
    """
    if part.picks:
        return False
    heads = session.task.classifies or session.task.other_problem
    if not heads or part.train.head != "probe" or (part.spec.start or "base") != "base":
        return False
    return f"{classifier_head_name(session.adapted.model)}.weight" in session.adapted.new


def start_head(session: Session, part: StageInputs) -> None:
    """Set the head of the untouched base to a probe on the stage's own rows: the first part of its change."""
    adapted = session.adapted
    head, name = classifier_head(adapted.model), classifier_head_name(adapted.model)
    probe = probe_of(session, [part.rows], bias=head.bias is not None, steady=True)
    with torch.no_grad():
        for leaf, values in (("weight", probe.weight), ("bias", probe.bias)):
            parameter = getattr(head, leaf)
            if parameter is not None:
                adapted.remember(f"{name}.{leaf}")
                parameter.copy_(values)
