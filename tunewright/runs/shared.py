"""One base under several adapters: loaded once, its numbers in memory once, and a model of its own for each adapter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from tunewright.contract.task import Task
from tunewright.loading.load import Loaded
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import same_bits
from tunewright.models.attention import prepare_attention
from tunewright.recipe import Recipe
from tunewright.runs.fresh import load_model


class SharedBase:
    """Gives every adapter the same base as a model of its own: modules apart, so that what hangs on one, wraps it or is
    put in its place is not seen by the others; parameters over the same memory.

    A parameter that an adapter is about to change is copied first (`Adapted.lent`): a new head, in the main. Models
    that differ (heads over other labels) are loaded apart, and share what is equal in every bit.
    """

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, tuple[str, ...] | None, str, str, bool], Loaded] = {}
        self._of: dict[int, Loaded] = {}
        self._bodies: dict[int, Adapted] = {}

    def load(
        self,
        recipe: Recipe,
        task: Task,
        labels: Sequence[str] | None,
        device: str,
        precision: str,
        weights: bool = True,
    ) -> Loaded:
        """As `load_model`. The first call for some labels reads the model's files."""
        key = (task.called, None if labels is None else tuple(labels), device, precision, weights)
        if key not in self._loaded:
            loaded = load_model(recipe, task, labels, device, precision, weights)
            for other in self._loaded.values() if weights else ():
                _merge(loaded.model, other.model)
            self._loaded[key] = loaded
        loaded = self._loaded[key]
        given = replace(loaded, model=twin(loaded.model), notes=list(loaded.notes))
        self._of[id(given.model)] = loaded
        return given

    def body(self, model: nn.Module, packed: bool) -> Adapted | None:
        """The twin that runs the rows of several models at once: the same for all that this one could be run with.

        `packed`: whether rows come packed, which a model has to be made ready for.
        """
        loaded = self._of[id(model)]
        if id(loaded) not in self._bodies:
            body = replace(loaded, model=twin(loaded.model)).adapted()
            self._bodies[id(loaded)] = body
        body = self._bodies[id(loaded)]
        return body if not packed or prepare_attention(body.model) else None


def twin(model: nn.Module) -> nn.Module:
    """A model with modules and buffers of its own whose parameters are over the memory of another's."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters() if type(p) is nn.Parameter
    }
    return copy.deepcopy(model, memo)


def _merge(model: nn.Module, other: nn.Module) -> None:
    """Let parameters of `model` that are equal to those of `other` lie in the same memory."""
    there = dict(other.named_parameters())
    for name, p in model.named_parameters():
        if (same := there.get(name)) is not None and same.dtype == p.dtype and same_bits(same.data, p.data):
            p.data = same.data
