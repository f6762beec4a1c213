"""Optimizers with state by name, so that it is saved, resumed and moved when the choice of what trains changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.method import Choice
from tunewright.slots import Bound, Methods
from tunewright.trained import Trained


def adamw(parameters: list[nn.Parameter], spec: Any) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, as torch has it (fused: one pass over memory)."""
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=tuple(spec.betas), eps=spec.eps, weight_decay=spec.weight_decay, fused=True)


def sgd(parameters: list[nn.Parameter], spec: Any) -> torch.optim.Optimizer:
    """SGD with momentum and (coupled) weight decay, as torch has it."""
    return torch.optim.SGD(parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)


BUILTIN = {"adamw": adamw, "sgd": sgd}


class Optimizers:
    """One optimizer a parameter group: a method's where it claims the group, else the recipe's."""

    def __init__(self, trained: Trained, methods: Methods, spec: Any):
        self.trained, self.methods, self.spec = trained, methods, spec
        self.optimizers: list[torch.optim.Optimizer] = []
        self.names: dict[int, str] = {}
        self.build()

    def _maker(self, group: str) -> Bound | None:
        claims = [b for b in self.methods.on("optimizer") if getattr(b.method, "group", "all") in ("all", group)]
        if len(claims) > 1:
            raise MethodError(f"'{claims[0].name}' and '{claims[1].name}' both make the optimizer of the group '{group}'", remedy="keep one, or set `group` on each")
        return claims[0] if claims else None

    def build(self) -> None:
        """Make the optimizers for the present leaves, with empty state."""
        self.optimizers = []
        self.names = {id(p): n for n, p in self.trained.parameters().items()}
        shared: dict[str, list[nn.Parameter]] = {}
        for group in ("base", "delta", "owned"):
            parameters = self.trained.group(group)
            if not parameters:
                continue
            maker = self._maker(group)
            if maker is None:
                shared.setdefault("recipe", []).extend(parameters)
                continue
            made = self.methods.call(maker, "optimizer", parameters=parameters, learning_rate=self.spec.learning_rate, weight_decay=self.spec.weight_decay)
            self.optimizers.append(made)
        if shared:
            self.optimizers.append(BUILTIN[self.spec.optimizer.name](shared["recipe"], self.spec))
        for o in self.optimizers:
            for g in o.param_groups:
                g.setdefault("base_lr", g["lr"])

    def set_factor(self, factor: float | Mapping[str, float]) -> float:
        """Scale every group's learning rate; a mapping scales by parameter name (others by its "" entry)."""
        rate = 0.0
        for o in self.optimizers:
            for g in o.param_groups:
                f = factor if isinstance(factor, int | float) else factor.get("", 1.0)
                g["lr"] = g["base_lr"] * f
                rate = max(rate, g["lr"])
        return rate

    def step(self) -> None:
        for o in self.optimizers:
            o.step()

    def state(self) -> dict[str, Tensor]:
        """All tensors of the optimizers' state as "<parameter>|<key>"; numbers become 0-d tensors."""
        out: dict[str, Tensor] = {}
        for o in self.optimizers:
            for p, values in o.state.items():
                for key, v in values.items():
                    if v is not None:
                        out[f"{self.names[id(p)]}|{key}"] = v if isinstance(v, Tensor) else torch.tensor(v)
        return out

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put `state()` back, by name; what is not saved starts empty."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for key, t in saved.items():
            name, _, part = key.rpartition("|")
            by_parameter.setdefault(name, {})[part] = t
        for o in self.optimizers:
            for g in o.param_groups:
                for p in g["params"]:
                    values = by_parameter.get(self.names[id(p)])
                    if values:
                        o.state[p] = {k: t.clone() for k, t in values.items()}

    def redraw(self, choice: Choice) -> None:
        """Train another choice. Moments of what stays are kept (entry by entry) or dropped, as the choice declares."""
        old_state, old_indices = self.state(), {n: leaf.indices for n, leaf in self.trained.leaves.items()}
        self.trained.set(choice)
        self.build()
        if choice.moments == "keep":
            moved: dict[str, Tensor] = {}
            for key, t in old_state.items():
                name = key.rpartition("|")[0]
                leaf = self.trained.leaves.get(name)
                if leaf is not None:
                    moved[key] = remap(t, old_indices[name], leaf.indices)
            self.restore(moved)


def remap(moment: Tensor, old: Tensor | None, new: Tensor | None) -> Tensor:
    """Carry a per-entry tensor from one sorted index to another: kept entries keep theirs, newcomers start at 0."""
    if old is None or new is None or moment.shape != old.shape:
        return moment
    out = torch.zeros(new.shape, dtype=moment.dtype)
    place = torch.searchsorted(old, new).clamp_(max=max(0, old.numel() - 1))
    kept = old[place] == new
    out[kept] = moment[place[kept]]
    return out
