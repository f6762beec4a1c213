"""rounding_errors: what rounding a layer's input and output to few bits changes, rotated and not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.methods.needs import _held
from tunewright.models.fake_quantised import by_head, rotated, rounded
from tunewright.models.sites import Site, Structure


def head_widths(structure: Structure) -> dict[str, int]:
    """The width of a head in the output of each linear site: its block's, where that divides it, else all of it."""
    by_block = {s.block: s.in_features // s.heads for s in structure.head_outputs() if s.heads}
    widths = {s.name: by_block.get(s.block, s.out_features) for s in structure.linear_sites()}
    out = {s.name: s.out_features for s in structure.linear_sites()}
    return {n: w if out[n] % w == 0 else out[n] for n, w in widths.items()}


class RoundingErrors(Need):
    """{site name: [4]}, fp32: mean squared error of a layer's input as it is and rotated (each token a scale), and of
    its output as it is and rotated (each token and head a scale); 0 where bits are 0. One pass, evaluation mode,
    padding left out. A site that no token reaches is absent. Rows are drawn by the seed.
    """

    name: ClassVar[str] = "rounding_errors"
    when: ClassVar[Literal["once"]] = "once"

    source: str = Field(description="name of the rows to read: keep, train ...")
    samples: PositiveInt = Field(description="rows to read")
    input_bits: int = Field(ge=0, description="bits of an input")
    output_bits: int = Field(ge=0, description="bits of an output")
    clip: PositiveFloat = Field(1.0, description="share of the largest number that a scale reaches to")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="sites to look at")

    def check(self, run: Any) -> None:
        run.source(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> dict[str, Tensor]:
        def forward(batch: Batch) -> None:
            run.task.forward(run.adapted.model, batch)

        heads = head_widths(run.adapted.structure)
        rows = run.batches(self.source, self.samples)
        return _held.kept(self, run, lambda sites: self._errors(sites, heads, forward, rows))

    def _errors(
        self, sites: list[Site], heads: Mapping[str, int], forward: Callable[[Batch], None], batches: Iterable[Batch]
    ) -> dict[str, Tensor]:
        sums = {s.name: torch.zeros(4, device=s.device) for s in sites}
        seen = dict.fromkeys(sums, 0)
        mask: Tensor | None = None
        counting = False

        def squared(v: Tensor, near: Tensor) -> Tensor:
            return (near - v).square().mean(-1).sum()

        def read(site: Site, x: Tensor, y: Tensor) -> None:
            if not counting:
                return
            x, y = (t.detach().flatten(0, -2).float() for t in (x, y))
            if mask is not None and len(mask) == len(x):
                x, y = x[mask], y[mask]
            if self.input_bits:
                for place, v in enumerate((x, rotated(x))):
                    sums[site.name][place] += squared(v, rounded(v, self.input_bits, self.clip))
            if self.output_bits:
                for place, turned in ((2, False), (3, True)):
                    near = by_head(y, heads[site.name], self.output_bits, self.clip, turned)
                    sums[site.name][place] += squared(y, near)
            seen[site.name] += len(x)

        def hook(site: Site) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, given, y: read(site, given[0], y)

        hooks = [s.module.register_forward_hook(hook(s)) for s in sites]
        try:
            with torch.no_grad():
                for batch in batches:
                    attention = batch.inputs.get("attention_mask")
                    mask = None if attention is None else attention.flatten().bool()
                    if not counting:  # a task may try a model out on its first batch: those passes are not samples
                        forward(batch)
                        counting = True
                    forward(batch)
        finally:
            for h in hooks:
                h.remove()
        return {n: t / seen[n] for n, t in sums.items() if seen[n]}
