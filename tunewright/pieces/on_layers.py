"""Methods that hang one delta on each of the layers that they target, of any form: `OnLayers`.

class Louder(OnLayers):
    form: ClassVar[type[Delta]] = OutputScale

    def start(self, site: Site, state: State, rng: random.Random) -> Delta:
        return OutputScale(torch.zeros(site.out_features))
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.deltas import Delta, check_site
from tunewright.models.sites import Site, Structure
from tunewright.pieces.target_modules import TARGET_MODULES


def uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """[rows, columns] uniform in +-1/sqrt(columns): Kaiming's start with a = sqrt 5."""
    bound = 1.0 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)


class OnLayers(Method):
    """A delta of one form on each targeted layer. Give `form` and `start`; perhaps `sites`."""

    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES, examples=[["q_proj", "v_proj"], ["q_proj"]]
    )

    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules"}
    form: ClassVar[type[Delta]] = Delta

    def setup(self, run: Setup) -> State:
        """A state that remembers the targeted layers' names, in `data["sites"]`."""
        sites = self.sites(run.structure)
        if not sites:
            raise MethodError(
                f"'{type(self).__name__.lower()}' found no site to attach to: the model's blocks have no linear layer",
                where="target_modules",
                remedy="use a method that adapts other layers, or a model of linear ones",
            )
        for site in sites:
            check_site(site, self.form)
        return State(sites=[s.name for s in sites])

    def sites(self, structure: Structure) -> list[Site]:
        """The targeted layers."""
        return structure.match(self.target_modules)

    def start(self, site: Site, state: State, rng: random.Random) -> Delta:
        """A layer's change as training starts."""
        raise NotImplementedError

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        """The layer's change, if the layer is targeted."""
        return self.start(site, state, rng) if site.name in state.data["sites"] else None
