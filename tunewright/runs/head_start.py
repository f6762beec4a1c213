"""Where a classifier's head that was drawn afresh starts: from a linear probe on the frozen features.

A head drawn at random answers by chance and sends gradients through the body that say nothing; the best linear head
for the features as they are is a second away (Kumar et al. 2022, arXiv:2202.10054: linear probing, then fine-tuning).
A head that came with the checkpoint is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunewright.data.dataset import Dataset
from tunewright.measure import linear_probe
from tunewright.measure.cache import BaseCache
from tunewright.measure.drift import take_features
from tunewright.measure.linear_probe import LinearProbe
from tunewright.pieces.heads import classifier_head, classifier_head_name
from tunewright.runs.session import Session, StageInputs


def probe_of(session: Session, datasets: Sequence[Dataset], *, bias: bool = True) -> LinearProbe:
    """A probe on these rows, from the model as it is now: the untouched base. Kept by the base's and rows' hashes."""
    settings = {
        "linear probe": len(session.options.labels or ()),
        "bias": bias,
        "precision": session.precision,
        "device": session.device,
        "threads": torch.get_num_threads(),
        "task": session.task.called,
        "vocabulary": session.recipe.new_tokens,
    }
    base = f"{session.loaded.hash}/{session.loaded.beside}"
    key = BaseCache().key(base, "/".join(d.hash for d in datasets), settings)
    (values, tensors), _ = BaseCache().cached(key, lambda: _fitted(session, datasets, bias))
    return LinearProbe(tensors["weight"], tensors["bias"], values["c"], values["rows"])


def _fitted(session: Session, datasets: Sequence[Dataset], bias: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    every = [(d, i) for d in datasets for i in range(len(d.rows))]
    rows = [every[k][0].rows[every[k][1]] for k in linear_probe.draw(len(every))]
    features = take_features(session.adapted.model, session.task, rows)
    if session.task.other_problem:
        targets = [r.fields["target"] for r in rows]
        probe = linear_probe.fit_targets(features.values.cpu(), targets, regression=session.task.scores, bias=bias)
    else:
        labels = [r.label for r in rows if r.label is not None]
        probe = linear_probe.fit(features.values.cpu(), labels, len(session.options.labels or ()), bias=bias)
    return {"c": probe.c, "rows": probe.rows}, {"weight": probe.weight, "bias": probe.bias}


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
    probe = probe_of(session, [part.rows], bias=head.bias is not None)
    with torch.no_grad():
        for leaf, values in (("weight", probe.weight), ("bias", probe.bias)):
            parameter = getattr(head, leaf)
            if parameter is not None:
                adapted.remember(f"{name}.{leaf}")
                parameter.copy_(values)
