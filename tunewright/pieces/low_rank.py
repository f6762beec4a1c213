"""Low-rank methods: y = x (W + s (B A - B0 A0))^T on each targeted layer, W [out, in] frozen, A [r, in], B [out, r].

`LowRankMethod` holds the parameters, finds the layers, refuses what cannot work and hangs the change on each of them. A
method gives what is its own: where A and B start (`initial`), and perhaps another scale, rank or form.

    class OrthonormalLoRA(LowRankMethod):
        def initial(self, start: Start) -> tuple[Tensor, Tensor]:
            drawn = torch.randn(start.site.in_features, start.rank, generator=torch_generator(start.rng))
            return torch.linalg.qr(drawn).Q.T, torch.zeros(start.site.out_features, start.rank)

A parameter that a method does without is fixed (`dropout: ClassVar[float] = 0.0`), one with another default declared
again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.deltas import Delta, LowRank, check_site
from tunewright.models.sites import Site, Structure
from tunewright.pieces.target_modules import TARGET_MODULES, by_pattern, check_patterns


@dataclass(frozen=True)
class Start:
    """What `initial` may look at: the layer, the change's rank and scale there, and what the slot `attach` offers.

    `rng` is the method's own saved generator: `torch_generator(start.rng)` draws tensors.
    """

    site: Site
    rank: int
    scale: float
    needs: Needs
    state: State
    rng: random.Random


def kaiming(site: Site, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """LoRA's start: A [rank, in] uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5), B [out, rank] zero; both fp32."""
    bound = 1.0 / math.sqrt(site.in_features)
    A = torch.empty(rank, site.in_features).uniform_(-bound, bound, generator=generator)
    return A, torch.zeros(site.out_features, rank)


class LowRankChange(Method):
    """What a low-rank change is and which layers have one, for a method that hangs its deltas itself (`new_delta`).

    - `default_scale`: the scale s where `alpha` is none, at the rank of the field `rank`: alpha = default_scale x rank.
    - `offset`: take the product's start off again, so that the model starts as the base though B A does not start at 0.
    - `full_rank_at_most`: refuse a rank above a layer's narrower side.
    - `low_rank`: what it hangs is s B A and no more, so that a later stage may read it as that.
    """

    rank: PositiveInt = Field(16, description="rank r of the change", examples=[8])
    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: twice the rank, s = 2", examples=[8]
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the input's entries set to zero while training", examples=[0.3]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES, examples=[["q_proj", "v_proj"], ["q_proj"]]
    )

    also: ClassVar[Mapping[str, str]] = {
        "targets": "target_modules",
        "r": "rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
    }
    default_scale: ClassVar[float] = 2.0
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    offset: ClassVar[bool] = False
    full_rank_at_most: ClassVar[bool] = False
    low_rank: ClassVar[bool] = True
    _elsewhere: ClassVar[str] = "use a method that adapts other layers, or a model of linear ones"

    def setup(self, run: Setup) -> State:
        """A state that remembers the targeted layers' names, in `data["sites"]`."""
        return State(sites=[s.name for s in self.sites(run.structure)])

    def sites(self, structure: Structure) -> list[Site]:
        """The targeted layers.

        Raises MethodError where there is none, for a target that names no module or one that takes no low-rank change,
        for a layer in 4 bits where the class says `quantised = False`, and for a rank above a layer's with
        `full_rank_at_most`.
        """
        sites = self._targeted(structure)
        if not sites:
            raise MethodError(
                f"'{type(self).__name__.lower()}' found no site to attach to: the model's blocks have no linear layer",
                where="target_modules",
                remedy=self._elsewhere,
            )
        for site in sites:
            check_site(site, self._form(site))
            self._check_layer(site)
        return sites

    def _targeted(self, structure: Structure) -> list[Site]:
        return structure.match(self.target_modules)

    def _form(self, site: Site) -> type[Delta]:
        """The form that a layer is asked whether it takes."""
        return LowRank

    def _check_layer(self, site: Site) -> None:
        name, sides = type(self).__name__.lower(), (site.out_features, site.in_features)
        if not self.quantised and hasattr(site.module, "tunewright_quantised"):
            raise MethodError(
                f"{name} starts from the weight of '{site.name}', which is held in 4 bits",
                where="target_modules",
                remedy="start from the base that is not quantised (carry: drop), or use lora",
            )
        if self.full_rank_at_most and self.rank_at(site) > min(sides):
            raise MethodError(
                f"{name}'s rank {self.rank_at(site)} exceeds '{site.name}' ({sides[0]} x {sides[1]})",
                where="rank",
                remedy=f"write rank: {min(sides)} or less",
            )

    def too_wide(self, structure: Structure) -> str | None:
        """What is told of ranks above a layer's narrower side; None where there are none."""
        sides = {s: min(s.out_features, s.in_features) for s in self.sites(structure)}
        wide = [s for s, side in sides.items() if self.rank_at(s) > side]
        if not wide:
            return None
        first, many = wide[0], f"{len(wide)} of {len(sides)} layers"
        return (
            f"rank {self.rank_at(first)} is above the narrower side of {many} ('{first.name}': {sides[first]}): "
            f"a rank of {sides[first]} reaches every change of that layer, with fewer weights"
        )

    def rank_at(self, site: Site) -> int:
        """The rank of a layer's change."""
        return self.rank

    def alpha_at(self, site: Site) -> float:
        """The numerator of a layer's scale."""
        return float(self.alpha or self.default_scale * self.rank)

    def scale_at(self, site: Site, rank: int) -> float:
        """The scale s of a layer's change."""
        return self.alpha_at(site) / rank

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        """(A [rank, in], B [out, rank]) that training starts from, fp32: LoRA's unless a method gives its own."""
        return kaiming(start.site, start.rank, torch_generator(start.rng))

    def delta(self, start: Start, A: Tensor, B: Tensor) -> LowRank:
        """The change made of A and B, for a method whose form is another one (gates)."""
        return LowRank(A, B, start.scale, dropout=self.dropout, offset=self.offset)

    def new_delta(self, site: Site, needs: Needs, state: State, rng: random.Random) -> LowRank:
        """A layer's change as training starts; it does not hang on the layer yet."""
        rank = self.rank_at(site)
        start = Start(site, rank, self.scale_at(site, rank), needs, state, rng)
        A, B = self.initial(start)
        given, expected = (A.shape, B.shape), ((rank, site.in_features), (site.out_features, rank))
        if given != expected:
            raise MethodError(
                f"{type(self).__name__}.initial gave A {list(A.shape)} and B {list(B.shape)} for '{site.name}'",
                remedy=f"give A [rank, in] = {list(expected[0])} and B [out, rank] = {list(expected[1])}",
            )
        return self.delta(start, A.contiguous(), B.contiguous())


class LowRankMethod(LowRankChange):
    """A low-rank change on each targeted layer. Give `initial`; everything else is here."""

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> LowRank | None:
        """The layer's change, if the layer is targeted."""
        return self.new_delta(site, needs, state, rng) if site.name in state.data["sites"] else None


class PatternedLowRank(LowRankMethod):
    """A low-rank change whose rank and alpha may differ by layer, as in PEFT."""

    rank_pattern: dict[str, PositiveInt] = Field(
        {}, description="ranks of modules that differ: module name or ending -> r", examples=[{"q_proj": 4}]
    )
    alpha_pattern: dict[str, PositiveFloat] = Field(
        {}, description="alphas of modules that differ: module name or ending -> alpha", examples=[{"q_proj": 7.0}]
    )

    def sites(self, structure: Structure) -> list[Site]:
        """The targeted layers. Raises MethodError for a pattern that names none of them, too."""
        sites = super().sites(structure)
        patterns: list[Mapping[str, int] | Mapping[str, float]] = [self.rank_pattern, self.alpha_pattern]
        check_patterns((p for group in patterns for p in group), (s.name for s in sites), "rank_pattern, alpha_pattern")
        return sites

    def rank_at(self, site: Site) -> int:
        return by_pattern(self.rank_pattern, site.name, self.rank)

    def alpha_at(self, site: Site) -> float:
        return by_pattern(self.alpha_pattern, site.name, super().alpha_at(site))
