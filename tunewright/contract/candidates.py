"""What a method on `choose` may draw from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from tunewright.models.delta_names import DeltaName

if TYPE_CHECKING:
    from tunewright.models.adapted import Adapted
    from tunewright.models.sites import Structure


class Candidates:
    """What a `choose` may draw from: every parameter that could train, by kind and block.

    `parameters` maps names to tensors (base weights under the model's own names; deltas under
    "<site>.delta.<part>"; method-owned ones under "<method>.<name>").
    """

    def __init__(self, adapted: Adapted, owned: Mapping[str, nn.Parameter] | None = None):
        self.adapted = adapted
        self.structure: Structure = adapted.structure
        self.base: dict[str, nn.Parameter] = adapted.base_parameters()
        # deltas carried from an earlier stage as `frozen` are no candidates
        self.deltas: dict[str, nn.Parameter] = adapted.trainable_deltas()
        self.owned: dict[str, nn.Parameter] = dict(owned or {})

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.base, **self.deltas, **self.owned}

    def by_kind(self, *roles: str) -> dict[str, list[list[str]]]:
        """role -> for each block, the names of its weight matrices (or norm weights) of that role, in module order."""
        return {
            role: [[n for n in block.weights(role) if n in self.base] for block in self.structure.blocks]
            for role in roles
        }

    @property
    def outside_blocks(self) -> tuple[str, ...]:
        """Base parameters that belong to no block: embeddings, final norm, head."""
        inside = {n for block in self.structure.blocks for n in block.parameter_names}
        return tuple(n for n in self.base if n not in inside)

    def linear_weights(self) -> dict[str, nn.Parameter]:
        """Weights of the linear sites inside blocks, by parameter name."""
        return {
            s.weight_name: self.base[s.weight_name]
            for s in self.structure.sites
            if s.block is not None and s.kind in ("linear", "conv1d") and s.weight_name in self.base
        }

    def deltas_by_block(self) -> list[list[str]]:
        """For each block, the names of the delta parameters that hang on its sites."""
        sites = {s.name: s for s in self.structure.every_site}
        out: list[list[str]] = [[] for _ in self.structure.blocks]
        for name in self.deltas:
            site = sites[DeltaName.parse(name).site]
            if site.block is not None:
                out[site.block].append(name)
        return out
