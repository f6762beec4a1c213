"""Blocks compiled by torch.compile while a stage trains: one compiled code for all blocks of a kind, of any length of
rows.

What a module does around its forward is not to be compiled, and is not forgotten either. A block that somebody hooks
(the last one, whose MLP runs at some positions alone) runs as it is written, and so does every forward without a
gradient: what is measured, generated or read is as without compiling. Operations are counted module by module
(`flops.py`), which a compiled block does not show: what a position costs in it is learnt once for each choice of what
trains, in a forward that is thrown away, so that a run that is resumed goes through the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.arguments import states_name
from tunewright.models.attention import left_out
from tunewright.models.flops import book, counted, foreseeing, uncounted, unheard
from tunewright.models.lean_tail import watched

WHERE = "train.compile"
Costs = tuple[float, float]
"""Operations of a position, forward and backward."""


class Compiled:
    """The blocks of a model, compiled by `backend` while `running`."""

    def __init__(self, adapted: Adapted, backend: str):
        self._adapted, self._backend = adapted, backend
        self._costs: dict[tuple[Any, ...], Costs] = {}
        self._learnt: set[tuple[bool, ...]] = set()
        self._learning = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, blocks run compiled; afterwards they are as they were."""
        modules = [self._adapted.model.get_submodule(b.name) for b in self._adapted.structure.blocks]
        taken = [m for m in modules if "forward" in vars(m)]
        if taken:
            raise MethodError(
                f"a block of {type(self._adapted.model).__name__} has a forward of its own, and is not compiled",
                where=WHERE,
                remedy="set it to false",
            )
        try:
            for i, module in enumerate(modules):
                module.forward = self._forward(i, module)  # type: ignore[method-assign]
            with left_out():
                yield
        finally:
            for module in modules:
                vars(module).pop("forward", None)

    def _forward(self, index: int, module: nn.Module) -> Callable[..., Any]:
        plain = module.forward
        called = states_name(type(module))
        fast = torch.compile(plain, backend=self._backend, dynamic=True)

        def forward(*given: Any, **named: Any) -> Any:
            x = given[0] if given else named.get(called)
            if not torch.is_grad_enabled() or not isinstance(x, Tensor):
                return plain(*given, **named)
            key = (index, x.requires_grad, *(p.requires_grad for p in module.parameters()))
            if self._learning:
                with foreseeing() as costs:
                    out = plain(*given, **named)
                positions = x.numel() / x.shape[-1]
                self._costs[key] = (costs.total / positions, costs.back / positions)
                return out
            if key not in self._costs or watched(module):
                return plain(*given, **named)
            with unheard():
                out = self._run(fast, given, named)
            if counted():
                ahead, back = (x.numel() / x.shape[-1] * c for c in self._costs[key])
                book(ahead, back, out[0] if isinstance(out, tuple) else out)
            return out

        return forward

    def _run(self, fast: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*given, **named)
        except TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise MethodError(
                f"{type(self._adapted.model).__name__} cannot be compiled by '{self._backend}': {first}",
                where=WHERE,
                remedy="set it to false; 'inductor' needs a C++ compiler (on a GPU: triton)",
            ) from error

    def learn(self, forward: Callable[[], Any]) -> None:
        """See by `forward`, a whole forward of the model, what a position of each block costs, where that is not known
        of what trains now. The caller puts back what it draws.
        """
        now = tuple(p.requires_grad for p in self._adapted.model.parameters())
        if now in self._learnt or not torch.is_grad_enabled():
            return
        self._learning = True
        try:
            with uncounted():
                forward()
        finally:
            self._learning = False
        self._learnt.add(now)


@contextmanager
def compiling(adapted: Adapted, asked: bool | str) -> Iterator[Compiled | None]:
    """Inside, blocks run compiled where a recipe asks for it (`train.compile`), and the model is as before on leaving.
    MethodError for deltas that are not known to compile.
    """
    if not asked:
        yield None
        return
    check_deltas(adapted)
    made = Compiled(adapted, "inductor" if asked is True else asked)
    with made.running():
        yield made


def check_deltas(adapted: Adapted) -> None:
    """MethodError for deltas that are not known to compile."""
    for site, deltas in adapted.deltas().items():
        if other := [d.form for d in deltas.values() if not d.compiles]:
            raise MethodError(
                f"a {other[0]} delta hangs on '{site}', which is not known to compile",
                where=WHERE,
                remedy="set it to false, or use low-rank adapters, or train the weights themselves",
            )
