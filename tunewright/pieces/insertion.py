"""Bottlenecks in a block's parts: what `bottleneck-adapters` and `mam-adapter` share.

    sequential   h <- h + A(h)          h: what an attention or feed-forward part gives, before the residual sum
    parallel     h <- h + A(x)          x: the stream of states that the part reads, before its norm in a pre-norm block
    after        r <- r + A(r)          r: the stream behind the part; in a post-norm block A reads the norm of r

A(h) = c (U f(D h + b) + u), D [a, d], U [d, a].
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright.contract.method import torch_generator
from tunewright.errors import MethodError
from tunewright.models.bottlenecks import Inserted, Tap
from tunewright.models.deltas import Delta, check_site
from tunewright.models.sites import Site
from tunewright.pieces.sublayers import Part, Parts

BERT_STD = 0.02


@dataclass(frozen=True)
class Places:
    """What hangs where: by site a "tap", or a place and the site that it reads from ("" where it reads its own)."""

    taps: dict[str, str]
    bottlenecks: dict[str, tuple[str, str]]

    def as_data(self) -> dict[str, object]:
        return {"taps": self.taps, "bottlenecks": {n: list(v) for n, v in self.bottlenecks.items()}}


def planned(found: dict[int, Parts], at: tuple[str, ...], insertion: str) -> Places:
    """Where bottlenecks of an insertion (sequential, parallel, after) hang, at the parts `at` (attention, mlp)."""
    plan = Places({}, {})
    for parts in found.values():
        for which in at:
            part: Part | None = getattr(parts, which)
            if part is None:
                continue
            if insertion == "parallel":
                source = part.before or part.first
                plan.taps[source] = source
                plan.bottlenecks[part.last] = ("beside", source)
            elif insertion == "sequential":
                plan.bottlenecks[part.last] = ("behind", "")
            elif part.behind:
                plan.bottlenecks[part.behind] = ("around", "")
            elif which == "mlp":
                plan.bottlenecks[parts.block] = ("behind", "")
            else:
                raise MethodError(
                    f"the stream behind the attention of '{parts.block}' is no layer's output",
                    where="insertion",
                    remedy="write at: mlp, or insertion: sequential",
                )
    return plan


def across(sites: Sequence[Site], insertion: str) -> Places:
    """Bottlenecks at single layers' outputs: they read the layer's input (parallel) or its output (sequential)."""
    for site in sites:
        check_site(site, Inserted)
    place = "across" if insertion == "parallel" else "behind"
    return Places({}, {s.name: (place, "") for s in sites})


Start = Callable[[int, int, int, torch.Generator], tuple[Tensor, Tensor]]
"""(width a, inputs d, outputs) -> D [a, d], U [outputs, a], from a generator."""


def bert_start(width: int, inputs: int, outputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both normal with deviation 0.02, as the `adapters` library starts them: near the base, not at it."""
    drawn = [torch.randn(shape, generator=generator) * BERT_STD for shape in ((width, inputs), (outputs, width))]
    return drawn[0], drawn[1]


def lora_start(width: int, inputs: int, outputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """D uniform in +-1/sqrt(d) (Kaiming with a = sqrt 5), U zero: the model starts as the base."""
    bound = 1.0 / math.sqrt(inputs)
    return torch.empty(width, inputs).uniform_(-bound, bound, generator=generator), torch.zeros(outputs, width)


STARTS: dict[str, Start] = {"bert": bert_start, "mam_adapter": lora_start}


def hung(
    data: Mapping[str, Any],
    site: Site,
    rng: random.Random,
    width_of: Callable[[int], int],
    start: Start,
    **form: Any,
) -> Delta | None:
    """What a plan (`Places.as_data`) hangs on a site; None: nothing. `form`: the bottleneck's own settings."""
    if site.name in data["taps"]:
        return Tap(site.module, site.name)
    if site.name not in data["bottlenecks"]:
        return None
    place, source = data["bottlenecks"][site.name]
    size = site.out_features
    inputs = site.in_features if place == "across" else size
    down, up = start(width_of(size), inputs, size, torch_generator(rng))
    return Inserted(site.module, down, up, place=place, source=source, **form)
