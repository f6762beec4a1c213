"""Several low-rank changes on one layer, and a gate that sends each token to the best few of them.

Shapes: N experts, r the largest rank (others are padded with zeros), [B, L, in] a layer's input.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.context import told
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

GATES = "gates"
"""Under this name the gates' logits are noted of a forward (`Present.note`): [B, L, N], one for each layer."""


class Routed(Delta):
    """y + sum_i w_i s_i B_i A_i x, where w = softmax(top-k of (G x) / T) in fp32 and 0 for the other experts.

    `gate` G [N, in] trains. The experts A [N, r, in] and B [N, out, r] train too if `trained`, else they are buffers;
    `scales` s [N] never do. `names` [N] say what each expert is for.
    """

    form = "routed"
    foldable: ClassVar[bool] = False
    every_token: ClassVar[bool] = True

    A: Tensor
    B: Tensor
    scales: Tensor

    def __init__(
        self,
        gate: Tensor,
        A: Tensor,
        B: Tensor,
        scales: Tensor,
        names: tuple[str, ...],
        *,
        top: int,
        temperature: float,
        trained: bool,
    ):
        super().__init__()
        if not len(gate) == len(A) == len(B) == len(scales) == len(names):
            raise MethodError(f"{len(names)} names, {len(gate)} gates, {len(A)} and {len(B)} matrices: one each a name")
        self.register_buffer("scales", scales)
        self.gate = nn.Parameter(gate)
        if trained:
            self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        else:
            self.register_buffer("A", A)
            self.register_buffer("B", B)
        self.names, self.top, self.temperature, self.trained = tuple(names), top, float(temperature), trained

    def weights(self, logits: Tensor) -> Tensor:
        """[.., N] the experts' weights, of which `top` are not 0 and which sum to 1."""
        best = logits.float().topk(min(self.top, logits.shape[-1]), -1)
        return torch.zeros_like(logits, dtype=torch.float32).scatter(
            -1, best.indices, torch.softmax(best.values / self.temperature, -1)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = x.to(self.gate.dtype)
        logits = nn.functional.linear(h, self.gate)
        now = told()
        if now is not None and torch.is_grad_enabled():
            now.note(GATES, logits)
        n, r, _ = self.A.shape
        low = nn.functional.linear(h, self.A.flatten(0, 1)).unflatten(-1, (n, r))
        low = (low * (self.weights(logits) * self.scales)[..., None].to(low.dtype)).flatten(-2)
        change = nn.functional.linear(low, self.B.transpose(0, 1).flatten(1))
        return y + (change * self.strength).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        n, r, _ = self.A.shape
        about = {"names": list(self.names), "top": self.top, "temperature": self.temperature, "trained": self.trained}
        return {"experts": n, "rank": r, **about}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Routed:
        n, r = settings["experts"], settings["rank"]
        some = {k: settings[k] for k in ("top", "temperature", "trained")}
        A, B = torch.zeros(n, r, site.in_features), torch.zeros(n, site.out_features, r)
        return cls(torch.zeros(n, site.in_features), A, B, torch.zeros(n), tuple(settings["names"]), **some)
