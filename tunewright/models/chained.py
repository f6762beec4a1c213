"""A model whose blocks run in another order for the while: some left out, some more than once.

The blocks are the model's own: nothing is copied, and the stack is as it was afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from tunewright.errors import MethodError
from tunewright.models.sites import Structure

_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Settings of a config that hold an entry for each block."""


def check_chain(structure: Structure) -> int:
    """How many blocks there are to put in order. MethodError where one block cannot follow every other one."""
    stacks = {b.stack for b in structure.blocks}
    if len(stacks) != 1:
        raise MethodError(
            f"the model has {len(stacks)} stacks of blocks ({', '.join(sorted(stacks))}), and a chain is of one",
            remedy="use an encoder or a decoder alone",
        )
    widths = {s.size for s in structure.whole}
    if len(structure.whole) < len(structure.blocks) or len(widths) != 1:
        raise MethodError(
            "the model's blocks differ in what they read and give, so that none can be left out or repeated",
            remedy="use a transformer, whose blocks all have one width",
        )
    return len(structure.blocks)


@contextmanager
def chained(model: nn.Module, structure: Structure, path: Sequence[int]) -> Iterator[nn.Module]:
    """The model with the blocks `path` of its one stack, in this order; a number may stand there more than once."""
    stack = structure.blocks[0].stack
    above, _, name = stack.rpartition(".")
    owner, blocks = model.get_submodule(above), model.get_submodule(stack)
    config: Any = getattr(model, "config", None)
    before: dict[str, Any] = {"num_hidden_layers": getattr(config, "num_hidden_layers", None)}
    before |= {n: getattr(config, n, None) for n in _LISTS}
    length = len(structure.blocks)
    try:
        owner._modules[name] = nn.ModuleList([blocks[i] for i in path])  # type: ignore[index]
        for key, value in before.items():
            if isinstance(value, int):
                setattr(config, key, len(path))
            elif isinstance(value, list) and len(value) == length:
                setattr(config, key, [value[i] for i in path])
        yield model
    finally:
        owner._modules[name] = blocks
        for key, value in before.items():
            if value is not None:
                setattr(config, key, value)
