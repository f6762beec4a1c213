"""A trained change as numbers that another method reads: what one task's fine-tuning added to the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Change:
    """The low-rank change of one task. `pairs`: layer -> (A [r, in], B [out, r]), the change of its weight being B A;
    `values`: whole tensors of a classifier's head by their names. Those of a stage that has yet to be trained are on
    torch's meta device: they have shapes alone.
    """

    name: str
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    values: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(A.numel() + B.numel() for A, B in self.pairs.values()) + sum(t.numel() for t in self.values.values())
