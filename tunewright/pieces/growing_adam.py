"""AdamW whose state follows a growing set of entries: moments exist for these alone, and each counts its own steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Places = Callable[[str], Tensor | None]
"""A parameter's name -> sorted flat places [k] of its entries that train now; None: it trains whole."""


class GrowingAdam(torch.optim.Optimizer):
    """AdamW over the entries that `places` names when it steps; all others keep their bits, whatever the decay.

    State of each parameter: `places` [k], `exp_avg` [k], `exp_avg_sq` [k] and `age` [k], the steps that an entry has
    taken: a late one's first step is corrected as any first step is. Places may grow, never shrink.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], places: Places, lr: float, weight_decay: float, **options: Any
    ):
        self._names = {id(p): n for n, p in parameters.items()}
        self._places = places
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8, **options}
        super().__init__(list(parameters.values()), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._one(p, p.grad.reshape(-1), group)

    def _one(self, p: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        places = self._places(self._names[id(p)])
        if places is None:
            places = torch.arange(p.numel(), device=p.device)
        if not len(places):
            return
        state = self._grown(self.state[p], places)
        g, (b1, b2) = gradient[places], group["betas"]
        m = state["exp_avg"].lerp_(g, 1 - b1)
        v = state["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
        t = state["age"].add_(1)
        move = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])
        flat = p.view(-1)
        flat[places] = flat[places] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * move

    def _grown(self, state: dict[str, Any], places: Tensor) -> dict[str, Any]:
        """The state with room for newcomers, whose moments and age are 0."""
        old = state.get("places")
        if old is None or len(old) != len(places):
            at = None if old is None else torch.searchsorted(places, old)
            for key in ("exp_avg", "exp_avg_sq", "age"):
                new = torch.zeros(len(places), device=places.device)
                state[key] = new if at is None else new.index_copy(0, at, state[key])
            state["places"] = places
        return state
