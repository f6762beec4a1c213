"""Gradients of the entries of a weight that train, without those of all the others.

Where few entries of a matrix train, its gradient G' X [out, in] is computed at their places alone (a sampled product of
two dense matrices): at a twentieth of the places in a third to four fifths of the time of the whole product, and no
tensor of the weight's size is ever made (benchmarks/sampled_gradients.py). From about a tenth on the whole product is
the faster one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

MOST = 0.05
"""Share of a matrix's entries up to which they are computed alone."""


class Places:
    """Where in a matrix of `shape`: flat `indices` [k], in any order, each once."""

    def __init__(self, indices: Tensor, shape: torch.Size):
        self.order = torch.argsort(indices)
        rows, columns = indices[self.order] // shape[1], indices[self.order] % shape[1]
        ends = torch.bincount(rows, minlength=shape[0]).cumsum(0)
        self.pattern = (torch.cat([ends.new_zeros(1), ends]), columns)
        self.at = torch.stack([rows, columns])
        self.shape = shape
        with warnings.catch_warnings():  # torch says once that such tensors are new to it
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")
            self._empty(indices.new_zeros((), dtype=torch.float32))

    @property
    def count(self) -> int:
        return len(self.order)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """left' right of left [positions, out] and right [positions, in], at the places alone, as a sparse tensor."""
        values = torch.sparse.sampled_addmm(self._empty(left), left.T, right, beta=0.0).values()
        return torch.sparse_coo_tensor(self.at, values, self.shape, is_coalesced=True, check_invariants=False)

    def _empty(self, like: Tensor) -> Tensor:
        """Zeros at the places, of another tensor's type."""
        return torch.sparse_csr_tensor(*self.pattern, like.new_zeros(self.count), self.shape, check_invariants=False)

    def of(self, gradient: Tensor) -> Tensor:
        """The entries [k] of a gradient in the indices' order, sparse or whole."""
        if not gradient.is_sparse:
            gradient = gradient.reshape(-1)[self.at[0] * self.shape[1] + self.at[1]]
        else:
            gradient = gradient.coalesce().values()
        return torch.empty_like(gradient).index_copy_(0, self.order, gradient)


def serves(parameter: Tensor, indices: Tensor) -> bool:
    """Whether these entries of a parameter are worth computing alone: few of them, of a matrix in float32 on the CPU,
    where this was compared.
    """
    matrix = parameter.dim() == 2 and parameter.dtype == torch.float32 and parameter.device.type == "cpu"
    return matrix and 0 < len(indices) <= MOST * parameter.numel()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, places: Places) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.places = places
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        flat = gradient.reshape(-1, gradient.shape[-1])
        return (
            gradient @ weight if wants_x else None,
            ctx.places.product(flat, x.reshape(-1, x.shape[-1])) if wants_weight else None,
            flat.sum(0) if wants_bias else None,
            None,
        )


class _Sampling(TorchFunctionMode):
    def __init__(self, places: Mapping[int, Places]):
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs and len(args) >= 2 and torch.is_grad_enabled():
            places = self.places.get(id(args[1]))
            if places is not None and args[1].requires_grad:
                return _Linear.apply(args[0], args[1], args[2] if len(args) > 2 else None, places)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


_OPEN: ContextVar[Mapping[int, Places] | None] = ContextVar("open", default=None)


def sampling(places: Mapping[nn.Parameter, Places]) -> AbstractContextManager[None]:
    """Inside, linear layers give their weights' gradients at these places alone, as sparse tensors, through the whole
    of a forward and its backward pass.
    """
    return sampling_at({id(p): found for p, found in places.items()})


@contextmanager
def sampling_at(places: Mapping[int, Places]) -> Iterator[None]:
    """`sampling` by the parameters' ids."""
    token = _OPEN.set(places)
    try:
        with _Sampling(places) if places else nullcontext():
            yield
    finally:
        _OPEN.reset(token)


def present() -> Mapping[int, Places]:
    """What is sampled now: to say it again where a block is computed again."""
    return _OPEN.get() or {}


def computed(weight: Tensor) -> int:
    """How many entries of a weight's gradient are computed now, where it trains."""
    places = present().get(id(weight))
    return weight.numel() if places is None else places.count
