"""Feed-forward parts whose copies are skills: which layers they have, and whether a copy says what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.deltas import deltas_of
from tunewright.models.sites import Site, Structure
from tunewright.models.skills import Copy, Layer, Skills
from tunewright.models.surgery import says
from tunewright.pieces.sublayers import Part

NEAR = 0.02
"""Largest difference of a copy's output and its part's, over the largest of these: rounding of 16 bits is far below."""


def held(structure: Structure) -> list[Skills]:
    """The skills that hang on a model, of every stage."""
    return [d for s in structure.sites for d in deltas_of(s).values() if isinstance(d, Skills)]


def check_copies(model: nn.Module, parts: Mapping[str, Sequence[Site]], activation: str, where: str) -> None:
    """MethodError where a copy of a part, by the name of its last layer, does not say what the part says."""
    read, gave = dict[str, Tensor](), dict[str, Tensor]()

    def note(kept: dict[str, Tensor], name: str, what: int) -> Any:
        return lambda module, given, out: kept.__setitem__(name, (given[0], out)[what].detach())

    hooks = [
        layers[end].module.register_forward_hook(note(kept, name, what))
        for name, layers in parts.items()
        for end, kept, what in ((0, read, 0), (-1, gave, 1))
    ]
    try:
        says(model)
    finally:
        for hook in hooks:
            hook.remove()
    for name in gave:
        own = Copy(general_of(parts[name]), activation)(read[name]).detach().float()
        if float((own - gave[name].float()).abs().max()) > NEAR * float(gave[name].abs().max()):
            raise MethodError(
                f"a copy of the feed-forward part that ends in '{name}' does not say what it says",
                where=where,
                remedy="use a model whose parts are two layers with the activation of its config between, or a third "
                "one that multiplies",
            )


def general_of(layers: Sequence[Site]) -> list[Layer]:
    """Weights and biases of a part's layers as they are."""
    biases = [getattr(s.module, "bias", None) for s in layers]
    return [(s.matrix().detach(), None if b is None else b.detach()) for s, b in zip(layers, biases, strict=True)]


def layers_of(structure: Structure, block: int, part: Part) -> list[Site]:
    """A feed-forward part's layers: first, perhaps the one that multiplies it, last."""
    inside = [s for s in structure.blocks[block].sites if s.role == "mlp" and s.kind in ("linear", "conv1d")]
    first, last = (next(s for s in inside if s.name == n) for n in (part.first, part.last))
    return [first, *(s for s in inside if s is not first and s is not last), last]
