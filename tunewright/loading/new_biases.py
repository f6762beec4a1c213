"""Biases that a change was folded into and that the base does not have: a folder can hold them where the architecture
has a switch for them.

A Llama without biases reads `o_proj.bias` from its folder once its config says `attention_bias: true`; the other biases
that the switch brings are zeros. An architecture without such a switch would leave the bias out without a word, so that
export is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn

from tunewright.errors import ModelError


def make_room(model: Any, names: Sequence[str]) -> list[str]:
    """Switch on, in the model's config, what makes the architecture read the biases `names`; returns those that were
    added as zeros beside them. ModelError where the architecture has no place for them.
    """
    if not names:
        return []
    have = set(model.state_dict())
    for config in _switched(model.config):
        expected = _names(type(model), config)
        if expected is None or not set(names) <= expected or have - expected:
            continue
        zeros = sorted(expected - have)
        if all(n.endswith(".bias") and isinstance(model.get_submodule(n[:-5]), nn.Linear) for n in zeros):
            for n in zeros:
                layer: Any = model.get_submodule(n[:-5])
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features), requires_grad=False)
            model.config = config
            return zeros
    raise ModelError(
        f"the change needs a bias that {type(model).__name__} has no place for, such as '{names[0]}': a plain folder "
        "would leave it out",
        remedy="use the run's own files (delta.safetensors) beside the base",
    )


def _switched(config: Any) -> Iterator[Any]:
    """Copies of a config with some of its switches for biases on: none, one, then more."""
    off = [k for k, v in vars(config).items() if "bias" in k and v is False]
    for count in range(len(off) + 1):
        for some in combinations(off, count):
            changed = copy.deepcopy(config)
            for name in some:
                setattr(changed, name, True)
            yield changed


def _names(kind: type[nn.Module], config: Any) -> set[str] | None:
    """Names of a fresh model's state, made without memory; None where the config makes none."""
    try:
        with torch.device("meta"):
            return set(kind(config).state_dict())  # type: ignore[call-arg]
    except Exception:  # a switch that does not go with the rest of the config is simply not the one
        return None
