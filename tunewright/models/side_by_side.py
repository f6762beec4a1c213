"""Several models over one base in one forward: the base's layers take the rows of all, each one's deltas its own rows.

The models are twins (`runs/shared.py`): modules of their own over the same memory, deltas hung on each. One more twin
runs the batch, in which the rows of one model lie behind those of the model before. Where any of them has deltas, that
twin's layer lets each model's own deltas act on its part, in their own forward, and multiplies all parts with the
base's weight at once:

    parts of x -> edits of the input, each by its own -> one product with W -> each part's own deltas -> y

So whatever form a change has, it is computed as it is alone; low-rank changes of all parts are one pass with the base's
product (`lowrank.low_rank_parts`), as one alone is. `routing.py` takes deltas that hang on one model, by names. Shapes:
T tokens of packed rows [1, T, ..], R padded rows [R, L, ..].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.context import Present, reading
from tunewright.models.lowrank import Part, low_rank_parts


@dataclass(frozen=True)
class Parts:
    """Where each model's part lies in the present forward: `sizes` along the tokens of a packed batch, or along the
    rows of a padded one; `picked` where a layer is given supervised positions alone (`lean_tail.py`), in the order of
    the batch; `present`: what each one's rows are.
    """

    sizes: list[int]
    packed: bool
    picked: list[int]
    present: Sequence[Present | None]

    def of(self, x: Tensor) -> tuple[int, list[int]]:
        """(dimension, sizes) of the parts of a layer's tensor. MethodError for a tensor of other rows."""
        for dim, sizes in ((1 if self.packed else 0, self.sizes), (1, self.picked)):
            if x.dim() > dim and x.shape[dim] == sum(sizes) and (dim == 0 or x.shape[0] == 1):
                return dim, sizes
        raise MethodError(
            f"a layer is given {list(x.shape)}, which is not the batch's {sum(self.sizes)} "
            f"{'tokens' if self.packed else 'rows'}: something before it adds or leaves out some",
            remedy="train the adapters by recipes of their own",
        )


class SideBySide:
    """`models` by place, and the twin `body` that runs them. `parts` is said anew for each forward, by `running`.

    `operations` are those of each model's own deltas, forward and backward, since the forward began.
    """

    def __init__(self, body: Adapted, models: Sequence[Adapted]):
        self.body, self.models = body, list(models)
        self.parts: Parts | None = None
        self.operations = [0.0] * len(models)
        own = {s.name: s for s in body.structure.every_site}
        self._hung: dict[int, dict[int, Any]] = {}
        self._routed: list[Any] = []
        for i, model in enumerate(models):
            for site in model.structure.every_site:
                if forms.deltas_of(site):
                    module: Any = own[site.name].module
                    self._hung.setdefault(id(module), {})[i] = site.module
                    if not forms.is_open(module):
                        forms.open_site(own[site.name])
                    if module not in self._routed:
                        self._routed.append(module)

    @contextmanager
    def running(self, parts: Parts) -> Iterator[nn.Module]:
        """Inside, a forward of the module that is given runs all parts."""
        self.parts, self.operations = parts, [0.0] * len(self.models)
        for module in self._routed:
            module.tunewright_route = self
        try:
            yield self.body.model
        finally:
            for module in self._routed:
                del module.tunewright_route
            self.parts = None

    def close(self) -> None:
        """Make the twin's layers the base's own again."""
        for site in self.body.structure.every_site:
            if forms.is_open(site.module):
                forms.detach(site)

    def linear(self, module: Any, x: Tensor, base: type[nn.Module]) -> Tensor:
        """A layer's output for the input x of all parts, each with its own deltas."""
        assert self.parts is not None
        if not torch.is_grad_enabled():  # a look at the twin itself, on a few tokens (`tasks/_causal.py`)
            return base.forward(module, x)  # type: ignore[no-any-return]
        dim, sizes = self.parts.of(x)
        live = self._live(module)
        if any(d.edits_input for _, some in live.values() for d in some):
            xs = list(x.split(sizes, dim))
            for i, (_, some) in live.items():
                for delta in some:
                    xs[i] = delta.before(xs[i]) if delta.edits_input else xs[i]
            x = torch.cat(xs, dim)
        fused = {i: ds[0] for i, (own, ds) in live.items() if ds and forms.is_fusable(own, ds[0], x)}
        if not fused:
            return self._changed(x, base.forward(module, x), dim, sizes, live)
        ends = list(accumulate(n * (x[..., 0].numel() // x.shape[dim]) for n in sizes))
        parts = [self._part(i, delta, ends) for i, delta in fused.items()]
        y = low_rank_parts(x, module.weight, module.bias, parts, module.tunewright_transposed)
        rest = {i: (own, ds[1:] if i in fused else ds) for i, (own, ds) in live.items()}
        return self._changed(x, y, dim, sizes, rest, set(fused))

    def _part(self, i: int, delta: Any, ends: list[int]) -> Part:
        """A model's low-rank change, of the rows that it acts on; `ends` of the rows of each model."""
        start, (A, B) = ends[i - 1] if i else 0, delta.pair()
        for entries, trains in delta.products():
            self.operations[i] += 2.0 * (ends[i] - start) * entries * (2 + trains)
        return Part(start, ends[i], A, B, delta.scale * delta.strength)

    def entering(self, module: Any, x: Tensor) -> Tensor:
        """What a block reads: no delta that shares forwards edits it (`training/joint.py`)."""
        return x

    def block(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        """A block's output for its input x and its own output y, each part with its own deltas."""
        assert self.parts is not None
        return self._changed(x, y, *self.parts.of(y), self._live(module)) if torch.is_grad_enabled() else y

    def _live(self, module: Any) -> dict[int, tuple[Any, list[forms.Delta]]]:
        """Of each model that has some here: its own module, and the deltas that act."""
        return {i: (own, own.delta.live()) for i, own in self._hung[id(module)].items()}

    def _changed(
        self,
        x: Tensor,
        y: Tensor,
        dim: int,
        sizes: list[int],
        live: Mapping[int, tuple[Any, list[forms.Delta]]],
        begun: AbstractSet[int] = frozenset(),
    ) -> Tensor:
        """y with each part's deltas added: those that edit the input have acted already. `begun`: the parts of y that
        are the layer's own output no more.
        """
        assert self.parts is not None
        some = {i: (own, [d for d in ds if not d.edits_input]) for i, (own, ds) in live.items()}
        if not any(ds for _, ds in some.values()):
            return y
        xs, ys = x.split(sizes, dim), list(y.split(sizes, dim))
        for i, (own, deltas) in some.items():
            with reading(self.parts.present[i]):
                for delta in deltas:
                    first = delta is deltas[0] and i not in begun
                    ys[i] = delta(xs[i], ys[i], own, first) if delta.reads_weight else delta(xs[i], ys[i])
                    self._count(i, delta, xs[i], ys[i])
        return torch.cat(ys, dim)

    def _count(self, i: int, delta: forms.Delta, x: Tensor, y: Tensor) -> None:
        """A delta's operations as `flops.py` counts them; of the twin's layers it counts the base's alone."""
        positions = y.numel() / y.shape[-1]
        for entries, trains in delta.products():
            self.operations[i] += 2.0 * positions * entries * (1 + x.requires_grad + trains)
