"""The last block's MLP only where something reads it: a training forward that needs hidden states at S of T positions.

What the last MLP gives at a position goes into that position's last hidden state and nowhere else. `tail(model)` finds
the module and tries it out; `only_at` hooks it for the while of one forward: rows of its input [B, L, D] are picked at
`positions` [S] (flat, into B x L), and its output is put back among zeros. Hidden states at the positions, and
every gradient of what is computed from them, are those of the whole forward; elsewhere the last hidden states are
those without the last MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.divided import brought
from tunewright.models.sites import Structure

WORTH = 0.75
"""Picking and putting back costs a few passes over memory: above this share of positions the whole is computed."""


class _Pick(torch.autograd.Function):
    """Rows of x [N, D] at `at` [S]; the gradient is put back among zeros. `at` names no row twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        ctx.at, ctx.rows = at, x.shape[0]
        return x.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Place.apply(gradient, ctx.at, ctx.rows), None


class _Place(torch.autograd.Function):
    """y [S, D] at the rows `at` of zeros [N, D]; the gradient is picked back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, at: Tensor, rows: int) -> Tensor:
        ctx.at = at
        return y.new_zeros(rows, y.shape[-1]).index_copy_(0, at, y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Pick.apply(gradient, ctx.at), None, None


def tail(structure: Structure, model: nn.Module) -> nn.Module | None:
    """The last block's MLP, if it is one module that treats each position alone (seen by numbers), else None.

    None too for several stacks of blocks, and for mixtures of experts, whose routers count tokens.
    """
    last = structure.blocks[-1]
    if len({b.stack for b in structure.blocks}) != 1:
        return None
    inside = [s for s in last.sites if s.role == "mlp"]
    heads = {s.name[len(last.name) + 1 :].split(".")[0] for s in inside}
    if len(heads) != 1 or any(len(s.name[len(last.name) + 1 :].split(".")) != 2 for s in inside):
        return None
    module = model.get_submodule(f"{last.name}.{heads.pop()}")
    with brought(model, module):
        return module if _alone(module, inside[0].in_features) else None


def _alone(module: nn.Module, width: int) -> bool:
    """Whether rows of [1, 5, width] come out the same without the others, in evaluation mode.

    Not tried on few-bit weights.
    """
    weight = next(module.parameters(), None)
    if weight is None or not weight.is_floating_point():
        return False
    x = torch.linspace(-1, 1, 5 * width, device=weight.device, dtype=weight.dtype).view(1, 5, width)
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            whole, part = module(x), module(x[:, [1, 4]])
        exact = 1e-5 if weight.dtype == torch.float32 else 5e-2
        same = (
            isinstance(whole, Tensor)
            and whole.shape == x.shape
            and torch.allclose(whole[:, [1, 4]], part, rtol=exact, atol=exact)
        )
    except Exception:  # a module that takes more than hidden states is simply not such a one
        same = False
    finally:
        for m, training in modes:
            m.training = training
    return same


@contextmanager
def only_at(module: nn.Module | None, positions: Tensor | None, tokens: int) -> Iterator[None]:
    """Inside, a forward of all `tokens` (B x L) runs `module` at `positions` alone; one of other tokens is left as it
    is.

    Nothing is changed without a module or positions, where they are most of the tokens, or where somebody else's hook
    watches the module: it would see fewer rows.
    """
    if module is None or positions is None or not 0 < len(positions) < WORTH * tokens or watched(module):
        yield
        return
    at = positions.unique()
    shapes: list[torch.Size | None] = []

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        shape = args[0].shape[:-1]
        shapes.append(shape if shape.numel() == tokens else None)
        return (_Pick.apply(args[0].flatten(0, -2), at)[None],) if shapes[-1] else args

    def after(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        shape = shapes.pop()
        return _Place.apply(out[0], at, tokens).view(*shape, out.shape[-1]) if shape else out

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()


def watched(module: nn.Module) -> bool:
    """Whether a forward hook hangs on the module or inside it."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
