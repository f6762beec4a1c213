"""unit_importance: how much two passes of a model that differ by dropout part where single units are scaled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs import _held
from tunewright.models.sites import Site, Structure
from tunewright.pieces.sublayers import mlp_pair


class UnitImportance(Need):
    """{site name: g [units]}, fp32: g = sum over batches of d KL(p2 || p1) / d m at m = 1, signed.

    m scales each unit: a channel that leads into an MLP (the output of its up layer), a channel of an MLP's output
    (that of its down layer), and a whole attention head (what enters the layer that reads heads' outputs). p1 and p2
    are the model's answers in two passes that differ by `dropout` of MLPs' and heads' outputs alone; the gradient flows
    through both. The divergence is a mean over targets. The model is in evaluation mode, its weights those that the
    stage starts with; rows are drawn by the seed.
    """

    name: ClassVar[str] = "unit_importance"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "once"
    takes_gradients: ClassVar[bool] = True

    source: str = Field("train", description="rows to read")
    samples: PositiveInt = Field(128, description="rows to read")
    dropout: float = Field(0.003, gt=0, lt=1, description="share of a part's outputs set to zero in each pass")

    def check(self, run: Any) -> None:
        run.source(self.source)
        if not run.adapted.structure.head_outputs() or not pairs(run.adapted.structure):
            raise MethodError(
                "this model has no blocks of attention heads and an MLP, whose units could be scaled",
                where="model",
                remedy="use a transformer",
            )

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        file = _held.cache_file(self, run, self.source)
        found = _held.load(file, run.device)
        if found is None:
            found = self._summed(run)
            _held.save(file, found)
        return found

    def _summed(self, run: Any) -> dict[str, Tensor]:
        drops = Drops(self.dropout)
        with scaled(run.adapted.structure, drops) as units, torch.enable_grad():
            totals = {n: torch.zeros_like(m) for n, m in units.items()}
            for i, group in enumerate(run.batches(self.source, self.samples)):
                if not len(group.labels):
                    continue
                answers = []
                for part in range(2):
                    drops.key = f"{run.seed}/{self.name}/{i}/{part}"
                    answers.append(run.task.forward(run.adapted.model, group).logits.float().log_softmax(-1))
                first, second = answers
                apart = (second.exp() * (second - first)).sum(-1).mean()
                grads = torch.autograd.grad(apart, list(units.values()), allow_unused=True)
                for name, g in zip(units, grads, strict=True):
                    if g is not None:
                        totals[name] += g
        return {n: t.detach() for n, t in totals.items()}


def pairs(structure: Structure) -> list[tuple[Site, Site]]:
    """(up, down) of each block's MLP."""
    return [p for b in structure.blocks if (p := mlp_pair(b)) is not None]


class Drops:
    """Sets a share of a tensor to zero and scales the rest up; draws go by `key` and the layer's name, so that a
    forward draws the same whatever ran before it.
    """

    def __init__(self, share: float):
        self.share, self.key = share, ""

    def __call__(self, y: Tensor, site: str) -> Tensor:
        generator = torch.Generator().manual_seed(random.Random(f"{self.key}/{site}").getrandbits(63))
        kept = torch.rand(y.shape, generator=generator) >= self.share
        return y * (kept / (1 - self.share)).to(y)


@contextmanager
def scaled(structure: Structure, drops: Drops) -> Iterator[dict[str, Tensor]]:
    """Inside, units are multiplied by ones that take gradients, by site, and some of the parts' outputs are dropped."""
    units: dict[str, Tensor] = {}
    hooks = []

    def ones(count: int, site: Site) -> Tensor:
        units[site.name] = torch.ones(count, device=site.device, requires_grad=True)
        return units[site.name]

    for up, down in pairs(structure):
        into, out = ones(up.out_features, up), ones(down.out_features, down)
        hooks.append(up.module.register_forward_hook(lambda _, x, y, m=into: y * m.to(y.dtype)))
        hooks.append(down.module.register_forward_hook(lambda _, x, y, m=out, n=down.name: drops(y * m.to(y.dtype), n)))
    for site in structure.head_outputs():
        heads = ones(site.heads, site)

        def enter(_: Any, given: Any, m: Tensor = heads, at: Site = site) -> Any:
            each = m.repeat_interleave(at.in_features // at.heads)
            return (drops(given[0] * each.to(given[0].dtype), at.name), *given[1:])

        hooks.append(site.module.register_forward_pre_hook(enter))
    try:
        yield units
    finally:
        for hook in hooks:
            hook.remove()
