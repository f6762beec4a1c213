"""Magnitude invariant parametrizations: a hypernetwork whose outputs do not grow with its inputs (Ortiz et al. 2023,
arXiv:2304.07645; papers: mip-hypernetworks).

One network writes the low-rank changes of all layers from a few numbers that stand for a source of the data: a level of
noise, a year, a share of a mixture. The model stays frozen. With g in [0, 1]^k the source's numbers,

    E(g) = [cos(pi g / 2), sin(pi g / 2)]            of length k^1/2 whatever g is
    (A, B) = (A0, B0) + h(E(g))                      A [r, in], B [out, r]; A0, B0 trained beside h
    y = x (W + s B A)^T                              s = alpha / r

h is fully connected, with leaky ReLUs. Without E and A0, B0 (`encoding: none`, `additive: false`, a plain hypernetwork)
h(c g) = c h(g) at the start for every c >= 0: what is written is as large as its input, and a source near 0 gets
next to nothing. When the stage ends, the changes of all named sources are kept as plain ones, also of sources without
a row, between those that were learnt.

Without `numbers` sources lie evenly from 0 to 1 in the order of the data. A row of an unnamed source gets the change of
`others`, by default of the only source, or is left as the base. One source's change folds once it is settled
(`export --task`).

Defaults: hidden layers of 16 and 32 (ours), leaky ReLUs, weights normal by the fan out and biases zero (the authors'
package), A0 and B0 as LoRA's start, rank 8 and alpha twice the rank (ours).
Raises MethodError for numbers outside [0, 1], of unequal lengths or of none of the stage's sources, and for
`others` without any.
Differs from the paper in: it writes low-rank changes of a trained model and not all weights of a new one.
Source: JJGO/hyperlight, hypernet/encoding.py, model.py and initialization.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, check_site
from tunewright.models.generated import freeze
from tunewright.models.per_task import PerTask
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming
from tunewright.pieces.target_modules import TARGET_MODULES

SLOPE = 0.01


def encoded(g: Tensor) -> Tensor:
    """[.., 2 k] of numbers g [.., k] in [0, 1], as long for each."""
    return torch.cat([torch.cos(math.pi * g / 2), torch.sin(math.pi * g / 2)], -1)


class Hypernetwork(nn.Module):
    """[k] -> a vector [n] for each of the sizes n: hidden layers in common, an output layer each."""

    def __init__(self, inputs: int, hidden: Sequence[int], sizes: Sequence[int], generator: torch.Generator):
        super().__init__()
        widths = [inputs, *hidden]
        with torch.device("meta"):  # its own start would draw from torch's generator
            inner = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
            outer = [nn.Linear(widths[-1], n) for n in sizes]
        self.hidden, self.outputs = nn.ModuleList(inner), nn.ModuleList(outer)
        self.to_empty(device="cpu")
        stds = [(2 / (1 + SLOPE**2) / layer.out_features) ** 0.5 for layer in inner]
        stds += [sum(sizes) ** -0.5 for _ in outer]
        with torch.no_grad():
            for layer, std in zip([*inner, *outer], stds, strict=True):
                layer.weight.normal_(0, std, generator=generator)
                layer.bias.zero_()

    def forward(self, e: Tensor, which: int) -> Tensor:
        for layer in self.hidden:
            e = nn.functional.leaky_relu(layer(e), SLOPE)
        made: Tensor = self.outputs[which](e)
        return made


class MIPHypernetworks(Method):
    """A network that writes a low-rank change for each source from its numbers, steady at any of them."""

    rank: PositiveInt = Field(8, description="rank r of a change", examples=[3])
    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: twice the rank, s = 2", examples=[5]
    )
    numbers: dict[str, tuple[float, ...]] = Field(
        {},
        description="source -> its numbers in [0, 1], also of sources without rows; none: evenly from 0 to 1",
        examples=[{"small": [0.1], "large": [0.9]}],
    )
    hidden: tuple[PositiveInt, ...] = Field(
        (16, 32), min_length=1, description="widths of the network's hidden layers", examples=[[5]]
    )
    encoding: Literal["cos-sin", "none"] = Field(
        "cos-sin", description="how numbers are read: at constant length, or as they are", examples=["none"]
    )
    additive: bool = Field(
        True, description="add what is written to a learnt change, instead of taking it as it is", examples=[False]
    )
    others: str | None = Field(
        None,
        description="source whose change rows of other sources get; none: the only source's, or no change",
        examples=["large"],
    )
    target_modules: str | tuple[str, ...] = Field("all-linear", description=TARGET_MODULES, examples=[["q_proj"]])

    category: ClassVar[str] = "reparameterised"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    papers: ClassVar[tuple[str, ...]] = ("mip-hypernetworks",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "hidden": [4]}

    def setup(self, run: Setup) -> State:
        sites = run.structure.match(self.target_modules)
        for site in sites:
            check_site(site, LowRank)
        g = self._numbers([s for s in run.plan.sources if s not in run.plan.replay])
        if self.others is not None and self.others not in g:
            raise MethodError(
                f"rows of other sources would get the change of '{self.others}', which has no numbers",
                where="others",
                remedy=did_you_mean(self.others, g),
            )
        only = next(iter(g)) if len(g) == 1 else None
        state: Any = State(tasks=list(g), others=self.others or only, sites={s.name: i for i, s in enumerate(sites)})
        read = torch.tensor(list(g.values()))
        state.set_buffer("read", encoded(read) if self.encoding == "cos-sin" else read)
        generator = torch_generator(run.rng)
        sizes = [self.rank * (s.in_features + s.out_features) for s in sites]
        state.network = Hypernetwork(state.get("read").shape[1], self.hidden, sizes, generator)
        if self.additive:
            starts = [torch.cat([t.flatten() for t in kaiming(s, self.rank, generator)]) for s in sites]
            state.learnt = nn.ParameterList(nn.Parameter(t) for t in starts)
        return state  # type: ignore[no-any-return]

    def _numbers(self, sources: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """The numbers of every source."""
        if not self.numbers:
            last = max(1, len(sources) - 1)
            return {s: (i / last,) for i, s in enumerate(sources or ["train"])}
        where = {"where": "numbers"}
        if sources and not set(sources) & set(self.numbers):
            raise MethodError(
                f"no source of this stage has numbers: it reads {', '.join(sources)}",
                remedy=f"write numbers: {{{sources[0]}: [0.5]}}", **where,
            )  # fmt: skip
        if len({len(g) for g in self.numbers.values()}) > 1 or not all(self.numbers.values()):
            raise MethodError("sources have unequal counts of numbers", remedy="write as many for each", **where)
        outside = next((s for s, g in self.numbers.items() if not all(0 <= x <= 1 for x in g)), None)
        if outside is not None:
            raise MethodError(
                f"'{outside}' has numbers outside of [0, 1]: {list(self.numbers[outside])}",
                remedy="write what share of the range each is", **where,
            )  # fmt: skip
        return dict(self.numbers)

    def attach(self, site: Site, state: State, rng: random.Random) -> PerTask | None:
        which = state.data["sites"].get(site.name)
        if which is None:
            return None
        tasks, r = state.data["tasks"], self.rank
        A, B = torch.zeros(r, site.in_features), torch.zeros(site.out_features, r)

        def make(task: str) -> Mapping[str, Tensor]:
            held: Any = state
            out = held.network(state.get_buffer("read")[tasks.index(task)], which)
            if self.additive:
                out = out + held.learnt[which]
            a, b = out.split([A.numel(), B.numel()])
            return {"lora_A": a.view(A.shape), "lora_B": b.view(B.shape)}

        return PerTask(LowRank(A, B, (self.alpha or 2.0 * r) / r), tasks, make, state.data["others"])

    def end_task(self, adapted: Adapted, state: State) -> None:
        for name in {n for by_name in adapted.deltas().values() for n in by_name}:
            freeze(adapted, name)
