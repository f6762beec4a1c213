"""Optimizers with state by name, so that it is saved, resumed and moved when the choice of what trains changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.combining import Bound, Methods
from tunewright.contract.method import Choice
from tunewright.errors import MethodError
from tunewright.training.trained import Trained, remap


def adamw(parameters: list[nn.Parameter], spec: Any) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay, as torch has it (fused: one pass over memory)."""
    return torch.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        betas=tuple(spec.betas),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=True,
    )


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
        self.parked: dict[str, Tensor] = {}  # moments of what is not drawn now
        self.build()

    def _maker(self, group: str) -> Bound | None:
        claims = [b for b in self.methods.on("optimizer") if b.method.optimizer_group in ("all", group)]
        if len(claims) > 1:
            raise MethodError(
                f"'{claims[0].name}' and '{claims[1].name}' both make the optimizer of the group '{group}'",
                remedy="keep one, or set `group` on each",
            )
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
            made = self.methods.call(
                maker,
                "optimizer",
                parameters=parameters,
                learning_rate=self.spec.learning_rate,
                weight_decay=self.spec.weight_decay,
            )
            self.optimizers.append(made)
        if shared:
            self.optimizers.append(BUILTIN[self.spec.optimizer.name](shared["recipe"], self.spec))
        for o in self.optimizers:
            for g in o.param_groups:
                # what the schedule's factor scales: a method's optimizer may give its groups rates of their own
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
        out: dict[str, Tensor] = dict(self.parked)
        for o in self.optimizers:
            for p, values in o.state.items():
                for key, v in values.items():
                    if v is not None:
                        # safetensors holds tensors alone, and a step count must come back as what torch made it
                        out[f"{self.names[id(p)]}|{key}"] = v if isinstance(v, Tensor) else torch.tensor(v)
        return out

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put `state()` back, by name; what is not saved starts empty, what does not train now is parked."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for key, t in saved.items():
            name, _, part = key.rpartition("|")
            by_parameter.setdefault(name, {})[part] = t
            if name not in self.trained.leaves:
                self.parked[key] = t
        for o in self.optimizers:
            for g in o.param_groups:
                for p in g["params"]:
                    values = by_parameter.get(self.names[id(p)])
                    if values:
                        o.state[p] = {k: _placed(k, t, p, g) for k, t in values.items()}

    def redraw(self, choice: Choice) -> None:
        """Train another choice. Moments are kept, parked or dropped as the choice declares, entry by entry."""
        # The optimizers are built anew for the new leaves (torch has no way to take parameters out of one), so their
        # state is written out by name first and moved over: by name and entry, since leaves are other objects now.
        old_state, old_places = self.state(), {n: leaf.indices for n, leaf in self.trained.leaves.items()}
        moves = self.trained.move(choice.places)
        old_places.update({n: old for n, (old, _) in moves.items()})
        self.trained.set(choice)
        self.parked = {}
        self.build()
        if choice.moments == "drop":
            return
        new_places = {n: leaf.indices for n, leaf in self.trained.leaves.items()} | {
            n: new for n, (_, new) in moves.items()
        }
        moved: dict[str, Tensor] = {}
        for key, t in old_state.items():
            name = key.rpartition("|")[0]
            if name in self.trained.leaves:
                moved[key] = remap(t, old_places.get(name), new_places[name])
            elif choice.moments == "park":
                moved[key] = t
        self.restore(moved)
        self._seed(choice, moves)

    def _seed(self, choice: Choice, moves: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Adam's moments of newcomers such that, after its bias correction, they read as the given mean and mean
        square.
        """
        named = {n: p for n, p in self.trained.parameters().items() if n in choice.seeds and n in moves}
        for o in self.optimizers:
            betas = o.defaults.get("betas")
            for name, p in named.items():
                state = o.state.get(p)
                if betas is None or not state or "exp_avg" not in state:
                    continue
                old, new = moves[name]
                newcomers, t = ~torch.isin(new, old), float(state["step"])
                for key, value, beta in zip(("exp_avg", "exp_avg_sq"), choice.seeds[name], betas, strict=True):
                    state[key][newcomers] = (value * (1 - beta**t))[newcomers]


def _placed(key: str, saved: Tensor, parameter: nn.Parameter, group: Mapping[str, Any]) -> Tensor:
    """A saved tensor where torch keeps it: by its parameter, a step count only for fused kernels."""
    return saved.clone() if key == "step" and not group.get("fused") else saved.to(parameter.device, copy=True)
