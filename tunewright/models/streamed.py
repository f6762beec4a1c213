"""Layer streaming: blocks whose weights stay in the base's files and are brought in one at a time.

Every block is brought in before it runs, forwards and again in the backward pass, where its activations are computed
anew; the block that stood there goes. So a frozen base trains with the memory of one block beside what hangs on it. The
values are those of the files, brought to the type that the model computes in: what is learnt is what a
model in memory learns, to the bit in float32 and to rounding in bfloat16 (there the model in memory is mapped from its
file, and products may follow where it lies). What reads a weight by its site (`Site.weight`) has the block brought in
too; read in any other way it is not a number, so that no mistake stays silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunewright.errors import MethodError, ModelError
from tunewright.models import context, sampled_gradients
from tunewright.models.originals import InFile

WHERE = "train.offload_param"
_BRING = "bring_in"
"""The attribute by which a site's module has its block brought in."""


def blank(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor of a shape that takes no memory, and is not a number."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(tuple(shape))


class Streamed:
    """The blocks of a model whose frozen parameters (`sources`, by parameter) are brought in and taken away."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], sources: Mapping[nn.Parameter, InFile]):
        self.model, self.blocks = model, list(blocks)
        self._sources = [
            [(p, sources[p]) for p in {id(p): p for p in b.parameters()}.values() if p in sources] for b in self.blocks
        ]
        self._names = {id(p): n for n, p in model.named_parameters()}
        self._checked = set[int]()
        self._here: int | None = None
        self._changes: dict[int, list[Callable[[], Tensor]]] = {}
        for i, block in enumerate(self.blocks):
            block.register_forward_pre_hook(partial(self._before, i), with_kwargs=True)
            for module in block.modules():
                setattr(module, _BRING, partial(self.bring, i))

    def __contains__(self, parameter: object) -> bool:
        return any(parameter is p for block in self._sources for p, _ in block)

    def bring(self, i: int) -> None:
        """Have block i in place, and no other. ModelError for a weight that is not finite."""
        if self._here == i:
            return
        self.away()
        for p, source in self._sources[i]:
            value = source.values
            if id(p) not in self._checked and not bool(torch.isfinite(value).all()):
                name = self._names.get(id(p), "a weight")
                raise ModelError(
                    f"the weights hold NaN or infinity: {name}",
                    where=str(source.stored.file),
                    remedy="download the model again, or use another precision",
                )
            self._checked.add(id(p))
            p.data = value
        self._here = i
        for p, _ in self._sources[i]:
            for make in self._changes.get(id(p), ()):
                p.data = make()

    def away(self) -> None:
        """Have no block in place."""
        if self._here is None:
            return
        for p, source in self._sources[self._here]:
            p.data = blank(source.stored.shape, p.dtype, p.device)
        self._here = None

    def change(self, p: Tensor, make: Callable[[], Tensor]) -> Callable[[], None]:
        """Have a parameter take the values that `make` gives whenever its block has been brought in; returns the way
        back.
        """
        changes = self._changes.setdefault(id(p), [])
        changes.append(make)
        self.away()

        def back() -> None:
            changes.pop()
            self.away()

        return back

    def _before(self, i: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        learns = torch.is_grad_enabled() and any(
            isinstance(t, Tensor) and t.requires_grad for t in (*args, *kwargs.values())
        )
        if learns and not (getattr(block, "gradient_checkpointing", True) and block.training):
            raise MethodError(
                "gradients are asked for outside training, and the blocks' weights are gone by then",
                where=WHERE,
                remedy="remove offload_param, or the method that asks",
            )
        self.bring(i)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, each block is brought in again where its activations are computed anew."""

        def anew(i: int) -> Callable[..., Any]:
            def run(forward: Callable[..., Any], *args: Any) -> Any:
                def brought(*inner: Any) -> Any:
                    self.bring(i)
                    return forward(*inner)

                return checkpoint(brought, *args, use_reentrant=False, context_fn=as_now)

            return run

        was = [(b, b.__dict__.get("_gradient_checkpointing_func")) for b in self.blocks]
        for i, block in enumerate(self.blocks):
            block._gradient_checkpointing_func = anew(i)  # type: ignore[assignment]
        try:
            yield
        finally:
            for block, before in was:
                if before is None:
                    del block._gradient_checkpointing_func
                else:
                    block._gradient_checkpointing_func = before
            self.away()


def trains_what_is_away(name: str) -> MethodError:
    """That a weight is to change which is brought in from the base's files each time."""
    return MethodError(
        f"'{name}' would change, and the blocks' weights are read from the base's files each time",
        where=WHERE,
        remedy="remove offload_param, or train what hangs beside the weights (lora ...)",
    )


def as_now() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a block's forward, and of computing it again later: with the rows of the present forward, and
    the gradients that it samples.
    """
    return nullcontext(), _again(context.told(), sampled_gradients.present())


@contextmanager
def _again(rows: context.Present | None, places: Mapping[int, sampled_gradients.Places]) -> Iterator[None]:
    with context.reading(rows), sampled_gradients.sampling_at(places):
        yield


def streamed(model: nn.Module) -> Streamed | None:
    """What brings a model's blocks in; None where they are all in memory."""
    return getattr(model, "_tunewright_streamed", None)


def keep(model: nn.Module, found: Streamed) -> None:
    """Have `streamed` find it."""
    object.__setattr__(model, "_tunewright_streamed", found)


def bring_in(module: nn.Module) -> None:
    """Have a module's weights in place, where its block is brought in."""
    if (bring := getattr(module, _BRING, None)) is not None:
        bring()
