"""Which operations may see tensors of two devices, as CUDA has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from tests.pretend_device.state import tensors_in

aten = torch.ops.aten

CROSSES = {
    aten.copy_,
    aten._copy_from,
    aten._copy_from_and_resize,
    aten.copy,
    aten._foreach_copy_,
    aten.is_same_size,
    aten.set_,
}
"""Operations that move values, or look at shapes only."""

ADVANCED = {
    aten.index,
    aten.index_put,
    aten.index_put_,
    aten._index_put_impl_,
    aten._unsafe_index,
    aten._unsafe_index_put,
    aten._unsafe_masked_index,
}
"""Advanced indexing: indices and masks may be on the CPU while what is indexed is on the device, not the other way."""

NO_NUMBERS = {aten.stack, aten.equal, aten.searchsorted, aten.bucketize, aten.take, aten.isin}
"""Operations for which a number on the CPU is a tensor like any other."""


@dataclass(frozen=True)
class Operation:
    """What an overload's schema says."""

    func: Any

    @cached_property
    def names(self) -> list[str]:
        return [a.name for a in self.func._schema.arguments]

    @cached_property
    def written(self) -> set[str]:
        """Arguments that the operation writes to."""
        return {a.name for a in self.func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}

    @cached_property
    def takes_device(self) -> bool:
        return "device" in self.names

    @cached_property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.func.tags

    @cached_property
    def each(self) -> bool:
        """Whether it does the same to every member of lists of tensors, one by one."""
        return self.func._schema.name.startswith("aten::_foreach_")

    @property
    def packet(self) -> Any:
        return self.func.overloadpacket


@cache
def operation(func: Any) -> Operation:
    return Operation(func)


def check_devices(
    op: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], tagged: Callable[[Tensor], bool]
) -> None:
    """RuntimeError where CUDA would refuse a mixture of devices."""
    if op.packet in CROSSES:
        return
    named = [*zip(op.names, args, strict=False), *kwargs.items()]
    if op.each:
        for group in _members(named):
            _check(op, group, tagged)
    else:
        _check(op, [(n, t) for n, v in named for t in tensors_in(v)], tagged)


def _members(named: list[tuple[str, Any]]) -> list[list[tuple[str, Tensor]]]:
    """Tensors of a list operation, grouped by place; a tensor that is not in a list belongs to every group."""
    lists = [(n, v) for n, v in named if isinstance(v, list | tuple) and v and all(isinstance(t, Tensor) for t in v)]
    common = [(n, v) for n, v in named if isinstance(v, Tensor)]
    return [[*((n, v[i]) for n, v in lists), *common] for i in range(max((len(v) for _, v in lists), default=0))]


def _check(op: Operation, tensors: list[tuple[str, Tensor]], tagged: Callable[[Tensor], bool]) -> None:
    on = [tagged(t) for _, t in tensors]
    if all(on) or not any(on):
        return
    free = op.packet in ADVANCED and on[0]
    for (name, t), there in zip(tensors, on, strict=True):
        if there or (free and name == "indices"):
            continue
        # numbers on the CPU go along with tensors on the device; they cannot be written to, nor stand for indices
        if t.dim() > 0 or name in op.written or name == "index" or op.packet in NO_NUMBERS:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"(pretended; argument '{name}' of {op.func} is on the CPU, of shape {tuple(t.shape)})"
            )
