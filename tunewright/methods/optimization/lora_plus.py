"""LoRA+: the B of a low-rank pair learns faster than its A (Hayou et al. 2024, arXiv:2402.12354).

With one rate for both, features of a wide model are learnt too slowly by one of them: the step of B [out, r] should be
wider than that of A [r, in] by a factor of the order of the width. The rate of every B that trains is `lr_ratio` times
the recipe's, whatever method hung the pair; A, gates, heads and everything else keep it.

Defaults: `lr_ratio` 16, the authors' code's (where it is `loraplus_lr_ratio`, a name that is read too).
Differs from the authors' code in: embeddings' own rate and the switch of weight decay of B are not offered; weight
decay follows the rate, as AdamW has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, PositiveFloat
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.models.delta_names import is_delta


class LoRAPlus(Method):
    """A higher learning rate for the B of low-rank pairs."""

    lr_ratio: PositiveFloat = Field(16.0, description="rate of B over the rate of A", examples=[4.0])

    divides: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("attach",)
    also: ClassVar[Mapping[str, str]] = {"loraplus_lr_ratio": "lr_ratio"}
    conformance_beside: ClassVar[Mapping[str, Mapping[str, object]]] = {"lora": {"rank": 2}}

    def rates(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        return {n: self.lr_ratio for n in parameters if is_delta(n) and n.endswith(".lora_B")}
