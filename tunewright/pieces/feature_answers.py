"""A classifier that answers by what is known of classes' features, and not by its trained head. R rows, D size of the
features, C classes of the model, K classes that are known.

Features are what the head reads, by one or two branches of the model: `base`, with every delta off, and `adapted`, with
all of them as they are; two are laid side by side. A method adapts in its first stage, or not at all; later stages read
rows and train nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.method import State
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import deltas_of
from tunewright.models.sites import Structure
from tunewright.pieces.heads import pooled_read, read_by_head

BASE, ADAPTED = "base", "adapted"
LEAST = 1e-8
"""The probability of a class that is not known yet."""


@contextmanager
def branch(structure: Structure, name: str) -> Iterator[None]:
    """Inside, the model speaks by one branch."""
    held = [(d, d.strength) for s in structure.every_site for d in deltas_of(s).values()] if name == BASE else []
    for d, _ in held:
        d.strength = 0.0
    try:
        yield
    finally:
        for d, before in held:
            d.strength = before


def rows_features(
    structure: Structure, branches: Sequence[str], read: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(features [N, D x branches], classes [N]) of a stage's rows; `read` is the need `row_features`."""
    found = []
    for name in branches:
        with branch(structure, name):
            found.append(read())
    return torch.cat([f for f, _ in found], -1), found[0][1]


def among_seen(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """[R, V] log-probabilities among some classes; ln 1e-8 of others."""
    seen = torch.tensor(list(classes), device=logits.device)
    said = logits.new_full(logits.shape, LEAST).log()
    return said.index_copy(1, seen, logits[:, seen].float().log_softmax(-1).to(logits.dtype))


class FeatureAnswers(nn.Module):
    """Says the log-probabilities of the classes in `state.data["classes"]`: those of `answer(features)` [R, K] as
    logits, and 1e-8 for others. While it trains, and before a class is known, the model as it is.
    """

    def __init__(self, model: Any, structure: Structure, state: State, answer: Callable[[Tensor], Tensor]):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (structure, state, answer)  # in a tuple: none of it is a part of the wrapper

    def forward(self, **inputs: Any) -> Any:
        structure, state, answer = self._held
        if self.training or not state.data["classes"]:
            return self.model(**inputs)
        read, out = [], None
        for name in state.data["branches"]:
            with branch(structure, name), read_by_head(self.model) as seen:
                out = self.model(**inputs)
            read.append(pooled_read(seen[-1], inputs))
        assert out is not None
        said = answer(torch.cat(read, -1)).float().softmax(-1)
        classes = torch.tensor(state.data["classes"], device=said.device)
        everything = said.new_full(out.logits.shape, LEAST).index_copy(1, classes, said)
        out.logits = everything.clamp(min=LEAST).log().to(out.logits.dtype)
        return out


def check_stage(adapted: Adapted, later: bool, method: str, where: str) -> bool:
    """Whether a stage adapts: the first one where deltas train beside the method. MethodError for a later stage that
    would.
    """
    trains = bool(adapted.trainable_deltas())
    if later and trains:
        raise MethodError(
            f"'{method}' adapts the model in its first stage alone: what it knows of earlier classes is of those "
            "features",
            where=where,
            remedy="write carry: frozen, and no other method, in the stages after the first",
        )
    return trains
