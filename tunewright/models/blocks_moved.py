"""Blocks repeated, inserted, reordered or left out: depth as a list of the old blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.sites import discover
from tunewright.models.surgery import Surgery, like, outputs_of, put_parameters, stack_of


class Rearranged(Surgery):
    """The stack of blocks becomes `order`: new block i is a copy of the old block order[i].

    `silent`: new blocks whose output layers (of attention and of MLP, with their biases) are zero, so that they pass
    their input on. With every old block once, in its place, and all others silent, the function is kept, in a model
    whose blocks add to what passes them by; bit for bit, since only zeros are added.
    """

    form: ClassVar[str] = "blocks"

    def __init__(self, order: Sequence[int], silent: Sequence[int] = ()):
        self.order, self.silent = [int(i) for i in order], sorted(int(i) for i in silent)
        if not self.order or any(not 0 <= i < len(self.order) for i in self.silent):
            raise MethodError(f"no stack of blocks can be {self.order} with {self.silent} silent")

    def settings(self) -> dict[str, Any]:
        return {"order": self.order, "silent": self.silent}

    @property
    def preserves(self) -> bool:
        heard = [b for i, b in enumerate(self.order) if i not in self.silent]
        return bool(self.silent) and heard == list(range(len(heard)))

    def told(self) -> str:
        of = ", ".join(map(str, self.order))
        told = f"{len(self.order)} blocks, in order the old model's blocks {of}"
        if not self.silent:
            return told
        which = ", ".join(map(str, self.silent))
        many = f"blocks {which} pass their" if len(self.silent) > 1 else f"block {which} passes its"
        return f"{told}, of which the new {many} input on unchanged at first"

    def apply(self, model: nn.Module) -> nn.Module:
        structure = discover(model)
        stack, length = stack_of(structure), len(structure.blocks)
        if max(self.order) >= length or min(self.order) < 0:
            raise MethodError(
                f"the model has {length} blocks, and block {max(self.order)} is asked for",
                remedy=f"name blocks from 0 to {length - 1}",
            )
        body = like(model, {"num_hidden_layers": len(self.order), **_by_layer(model, self.order, length)})
        zero = {f"{n}." for i in self.silent for n in _moved(outputs_of(structure, self.order[i]), stack, i)}
        old: dict[str, Tensor] = {**dict(model.state_dict()), **dict(model.named_parameters(remove_duplicate=False))}
        values: dict[str, Tensor] = {}
        given: set[str] = set()
        for name in [*dict(body.named_parameters()), *body.state_dict()]:
            if name in values:
                continue
            source = self._source(name, stack)
            if source not in old:
                raise MethodError(f"'{name}' of the new shape is no copy of anything in the model")
            value = old[source]
            if any(name.startswith(z) for z in zero):
                value = torch.zeros_like(value)
            elif source in given:
                value = value.detach().clone()  # the first copy is the old block itself
            given.add(source)
            values[name] = value
        put_parameters(body, values)
        return body

    def _source(self, name: str, stack: str) -> str:
        """The old name of what a name of the new body holds."""
        if not name.startswith(stack + "."):
            return name
        index, _, rest = name[len(stack) + 1 :].partition(".")
        return f"{stack}.{self.order[int(index)]}.{rest}"


def _moved(names: Sequence[str], stack: str, block: int) -> list[str]:
    """The names that layers of an old block have in a new one."""
    return [f"{stack}.{block}.{n[len(stack) + 1 :].partition('.')[2]}" for n in names]


def _by_layer(model: Any, order: Sequence[int], length: int) -> Mapping[str, Any]:
    """Settings of the config that hold an entry for each layer, in the new order."""
    config = getattr(model, "config", None)
    names = ("layer_types", "mlp_layer_types", "no_rope_layers")
    values = {n: getattr(config, n, None) for n in names}
    return {n: [v[i] for i in order] for n, v in values.items() if isinstance(v, list) and len(v) == length}
