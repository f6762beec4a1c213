"""A model whose weights are divided among processes (torch's `fully_shard`, FSDP2).

Of every tensor each process holds some rows. A block is brought together before it runs and parted after it, forwards
and again in the backward pass; what lies outside the blocks likewise, around the whole model's forward. So every
process must run the model equally often. What hangs on the model later (deltas, biases that it did not have) is not
divided: each process holds it whole.

A parameter is a `DTensor` outside of its block's forward (`shards.py` reads it), and a plain tensor within.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.machine.group import Group
from tunewright.machine.memory import give_back_freed_memory
from tunewright.models.shards import is_divided, own
from tunewright.models.sites import discover

WHERE = "train.fsdp"


class Divided:
    """The division of a model's weights: its units (`model` and its blocks), and changes that are made of a unit's
    weights each time that it is brought together.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], group: Group):
        self.model, self.group = model, group
        self._unit: dict[int, nn.Module] = {}
        self._changes: dict[int, list[tuple[nn.Module, str, Callable[[], Tensor]]]] = {}
        self._open = 0
        for unit in (model, *blocks):
            self._unit.update({id(m): unit for m in unit.modules()})
            unit.register_forward_pre_hook(self._change)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, what lies outside the blocks (embeddings, the head) stays together, so that it can be used past the
        model's own forward; nothing may be dialled meanwhile.
        """
        root: Any = self.model
        if not self._open:
            root.set_reshard_after_forward(False, recurse=False)
            root.unshard()
            self._change(root)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                root.set_reshard_after_forward(True, recurse=False)
                root.reshard()

    @property
    def is_together(self) -> bool:
        """Whether what lies outside the blocks stays together now."""
        return self._open > 0

    @contextmanager
    def unit_of(self, module: nn.Module) -> Iterator[None]:
        """Inside, the unit that a module belongs to is together, so that the module can be used by itself."""
        unit: Any = self._unit[id(module)]
        unit.unshard()
        try:
            yield
        finally:
            unit.reshard()

    def holds(self, module: nn.Module, name: str) -> bool:
        """Whether a module's parameter of that name is divided."""
        return is_divided(module._parameters.get(name))

    def change(self, module: nn.Module, name: str, make: Callable[[], Tensor]) -> Callable[[], None]:
        """Have a module's parameter take the values that `make` gives, out of those it has, whenever its unit has been
        brought together; returns the way back.
        """
        assert not self._open, "a unit that is together would not take the change"
        changes = self._changes.setdefault(id(self._unit[id(module)]), [])
        entry = (module, name, make)
        changes.append(entry)
        return partial(changes.remove, entry)

    def gathered(self, values: Tensor, p: Tensor) -> Tensor:
        """The whole of what each process holds a part of as it does of `p`, in the first one's memory; elsewhere a
        tensor without numbers.
        """
        rows = -(-p.shape[0] // self.group.size)
        padded = torch.zeros(rows, *p.shape[1:], dtype=values.dtype)
        padded[: len(values)] = values.detach()
        parts = self.group.gathered(padded)
        return padded.new_empty(0) if parts is None else torch.cat(parts)[: p.shape[0]]

    def held(self) -> int:
        """Bytes of parameters that this process holds."""
        return sum(own(p).numel() * p.element_size() for p in self.model.parameters())

    def _change(self, unit: nn.Module, *_: Any) -> None:
        if unit is self.model and self._open:
            return  # it was changed when it was brought together
        for module, name, make in self._changes.get(id(unit), ()):
            with torch.no_grad():
                parameter = module._parameters[name]
                assert parameter is not None
                parameter.data.copy_(make())


def divide(model: nn.Module, group: Group, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
    """Divide a model's weights among the processes of `group`, on `device` and in `dtype` (none: as they are), where
    each then holds its rows alone.

    ModelError where its weights cannot be divided by blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    structure = discover(model)
    for tied, kept in structure.tied.items():
        if structure.block_of(tied) != structure.block_of(kept):
            raise _undividable(f"'{tied}' and '{kept}' of different blocks are one tensor")
    blocks = [model.get_submodule(b.name) for b in structure.blocks]
    try:
        mesh = init_device_mesh(torch.device(device).type, (group.size,))
        for unit in (*blocks, model):
            _place(unit, device, dtype)
            sharded: Any = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
            sharded.set_gradient_divide_factor(1.0)  # a step's gradient is a sum over its micro-batches
            sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
            give_back_freed_memory()  # between rows that stay, what was whole leaves holes that no whole tensor fills
        # by its first forward, which may be one of its body alone, the model would not be known as the root
        root: Any = model
        root._get_fsdp_state()._lazy_init()
        for unit in (*blocks, root):
            unit.unshard()  # what it lays out once would not train, were it laid out in inference mode
            unit.reshard()
            give_back_freed_memory()
    except (NotImplementedError, ValueError) as e:
        raise _undividable(str(e)) from e
    object.__setattr__(model, "_tunewright_divided", Divided(model, blocks, group))


def _place(unit: nn.Module, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Put what is not divided yet of a unit onto a device, its parameters into a type."""
    unit.to(device)
    for p in unit.parameters():
        if dtype is not None and p.is_floating_point() and not is_divided(p):
            p.data = p.data.to(dtype)


def divided(model: nn.Module) -> Divided | None:
    """The division of a model's weights; None where each process holds them whole."""
    return getattr(model, "_tunewright_divided", None)


def brought(model: nn.Module, module: nn.Module) -> AbstractContextManager[None]:
    """Inside, a module of the model has its weights, whether these are divided or not."""
    parts = divided(model)
    return nullcontext() if parts is None else parts.unit_of(module)


def _undividable(why: str) -> ModelError:
    return ModelError(
        f"this model's weights cannot be divided among processes: {why}", where=WHERE, remedy="remove train.fsdp"
    )
