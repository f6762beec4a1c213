"""A model cut in three, as split learning does: head and tail with whoever holds the rows, the body between them
elsewhere.

    x -> [ what stands before the blocks, first blocks ] -> [ body ] -> [ last blocks, norm, classifier ] -> logits
           client                                          server       client

What crosses a cut is counted as it crosses: states on the way there, their gradients on the way back. The client may
also run head and tail alone, without the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.arguments import states_name
from tunewright.models.chained import chained, check_chain
from tunewright.models.sites import Structure


class Split:
    """Which blocks of a model are the head (the first ones), the tail (the last ones) and the body.

    MethodError where blocks cannot follow one another in another order, and where one side has no block.
    """

    def __init__(self, structure: Structure, head: int, tail: int, where: str):
        count = check_chain(structure)
        if not 0 < head + tail < count:
            bare = "server" if head + tail else "client"
            raise MethodError(
                f"{head} first and {tail} last blocks of {count} leave the {bare} none",
                where=where,
                remedy=f"write two numbers whose sum is 1 to {count - 1}",
            )
        names = [b.name for b in structure.blocks]
        self.structure, self.body = structure, names[head : count - tail]
        self.path = [*range(head), *range(count - tail, count)]

    def on_server(self, name: str) -> bool:
        """Whether a parameter or module is the body's."""
        return any(name == b or name.startswith(f"{b}.") for b in self.body)

    def server(self, model: nn.Module) -> list[nn.Module]:
        """All modules of the body."""
        return [m for b in self.body for m in model.get_submodule(b).modules()]

    def tail(self, model: nn.Module) -> list[str]:
        """Names of the parameters behind the body, in the order in which the model defines them."""
        names = [n for n, _ in model.named_parameters()]
        last = max(i for i, n in enumerate(names) if self.on_server(n))
        return names[last + 1 :]

    @contextmanager
    def alone(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model is head and tail without the body."""
        with chained(model, self.structure, self.path):
            yield


class Crossing:
    """Bytes that crossed the cuts while `watching`: states, and gradients where they come back."""

    def __init__(self) -> None:
        self.bytes = 0

    def _count(self, states: Tensor) -> None:
        self.bytes += states.numel() * states.element_size()
        if states.requires_grad:
            states.register_hook(self._back)

    def _back(self, gradient: Tensor) -> None:
        self.bytes += gradient.numel() * gradient.element_size()

    @contextmanager
    def watching(self, model: nn.Module, split: Split) -> Iterator[None]:
        """Inside, every forward through the body is counted, and its backward when that comes."""

        def there(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            self._count(args[0] if args else given[states_name(type(module))])

        def back(module: nn.Module, args: Any, output: Any) -> None:
            self._count(output if isinstance(output, Tensor) else output[0])

        first, last = model.get_submodule(split.body[0]), model.get_submodule(split.body[-1])
        handles = [first.register_forward_pre_hook(there, with_kwargs=True), last.register_forward_hook(back)]
        try:
            yield
        finally:
            for h in handles:
                h.remove()
