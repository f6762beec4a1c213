"""(IA)^3: a factor for each key, value and inner unit of a block (Liu et al. 2022, arXiv:2205.05638).

What attention's keys and values say is scaled feature by feature, and what enters the second layer of the feed-forward
part, unit by unit:

    k <- l_k * (W_k x + b)      v <- l_v * (W_v x + b)      h <- W_2 (l_ff * f(W_1 x))

The factors l start at 1, so that the model starts as the base; they are held as 1 + v with v from zero, so that weight
decay draws them to 1. Nothing else trains: a few numbers a layer, which fold into weights and biases. Names and adapter
format are PEFT's: `feedforward_modules` are the targets whose inputs are scaled, all others' outputs are.

Which layers, unless they are named: those of an attention whose names are a key's or a value's (where queries, keys and
values are one layer, that one, as PEFT has it), and of a feed-forward part those with a down-projection's name.
The learning rate is the paper's 3e-3, taken to a width of 1,024 by this package's rule.

Raises MethodError where no layer has such a name, and for a feed-forward module that is no target.
Differs from the paper in: no loss beside the method's own (there: unlikelihood and length-normalised losses).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field

from tunewright.contract.method import State
from tunewright.errors import MethodError
from tunewright.models.deltas import Delta, InputScale, OutputScale
from tunewright.models.sites import Site, Structure
from tunewright.pieces.on_layers import OnLayers
from tunewright.pieces.target_modules import named_by

KEYS_AND_VALUES = frozenset(
    "k_proj v_proj key value key_proj value_proj k_lin v_lin k v to_k to_v query_key_value c_attn "
    "qkv_proj Wqkv qkv".split()
)
"""Endings of the names of layers that make an attention's keys and values."""
FEED_FORWARD = frozenset("down_proj fc2 c_proj dense_4h_to_h fc_out lin2 wo Wo w2 dense ff2 output_dense".split())
"""Endings of the names of a feed-forward part's last layer; an encoder's `dense` is the one that narrows."""


class IA3(OnLayers):
    """Factors on keys, values and the feed-forward part's inner units."""

    target_modules: str | tuple[str, ...] | None = Field(  # type: ignore[assignment]
        None,
        description="which linear layers, by names or endings; none: keys, values and feed-forward down-projections",
        examples=[["k_proj", "v_proj", "down_proj"], ["k_proj"]],
    )
    feedforward_modules: str | tuple[str, ...] | None = Field(
        None,
        description="targets whose inputs are scaled instead of their outputs; none: the down-projections among them",
        examples=[["v_proj"]],
    )

    category: ClassVar[str] = "additive"
    divides: ClassVar[bool] = True
    learning_rates: ClassVar[Mapping[str, float]] = {"": 5e-3}
    form: ClassVar[type[Delta]] = OutputScale

    def sites(self, structure: Structure) -> list[Site]:
        """Keys, values and feed-forward down-projections, or what is named."""
        if self.target_modules is not None:
            sites = structure.match(self.target_modules)
        else:
            sites = [s for s in structure.linear_sites() if _keys_or_values(s) or _feed_forward(s)]
            if not sites and structure.linear_sites():
                raise MethodError(
                    "no layer is named as keys, values or a down-projection are",
                    where="target_modules",
                    remedy="name them: target_modules and, of these, feedforward_modules",
                )
        for pattern in self._patterns():
            if not any(named_by(pattern, s.name) for s in sites):
                raise MethodError(
                    f"the feed-forward module '{pattern}' is none of the targets",
                    where="feedforward_modules",
                    remedy="name it in target_modules too",
                )
        return sites

    def _patterns(self) -> tuple[str, ...]:
        named = self.feedforward_modules or ()
        return (named,) if isinstance(named, str) else tuple(named)

    def start(self, site: Site, state: State, rng: random.Random) -> InputScale | OutputScale:
        if self.feedforward_modules is None:
            inner = _feed_forward(site)
        else:
            inner = any(named_by(p, site.name) for p in self._patterns())
        return InputScale(torch.zeros(site.in_features)) if inner else OutputScale(torch.zeros(site.out_features))


def _keys_or_values(site: Site) -> bool:
    return site.role == "attention" and site.name.rpartition(".")[2] in KEYS_AND_VALUES


def _feed_forward(site: Site) -> bool:
    last = site.name.rpartition(".")[2]
    narrows = site.in_features > site.out_features
    return site.role == "mlp" and last in FEED_FORWARD and (narrows or last != "dense")
