"""Optimizers with state by name, so that it is saved, resumed and moved when the choice of what trains changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.combining import Bound, Methods
from tunewright.contract.method import Choice, Plan
from tunewright.errors import MethodError, did_you_mean
from tunewright.training.following import Places, remap
from tunewright.training.trained import Trained


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


def check_makers(methods: Methods) -> None:
    """MethodError where two methods make the optimizer of the same group, whatever trains."""
    makers = methods.on("optimizer")
    for group in dict.fromkeys(b.method.optimizer_group for b in makers):
        if len(claims := [b for b in makers if b.method.optimizer_group == group]) > 1:
            raise _both(claims, group)


def _both(claims: Sequence[Bound], group: str) -> MethodError:
    return MethodError(
        f"'{claims[0].name}' and '{claims[1].name}' both make the optimizer of the group '{group}'",
        remedy="keep one, or set `group` on each",
    )


class Optimizers:
    """One optimizer a parameter group: a method's where it claims the group, else the recipe's."""

    def __init__(self, trained: Trained, methods: Methods, spec: Any, plan: Plan):
        self.trained, self.methods, self.spec, self.plan = trained, methods, spec, plan
        self.optimizers: list[torch.optim.Optimizer] = []
        self.names: dict[int, str] = {}
        self.parked: dict[str, Tensor] = {}  # moments of what is not drawn now
        self.build()

    def _maker(self, group: str) -> Bound | None:
        claims = [b for b in self.methods.on("optimizer") if b.method.optimizer_group in ("all", group)]
        if len(claims) > 1:
            raise _both(claims, group)
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
                shared.setdefault("recipe", []).extend(parameters.values())
                continue
            made = self.methods.call(
                maker,
                "optimizer",
                parameters=parameters,
                learning_rate=self.spec.learning_rate,
                weight_decay=self.spec.weight_decay,
                structure=self.trained.adapted.structure,
                plan=self.plan,
            )
            several = [made] if isinstance(made, torch.optim.Optimizer) else list(made)
            self._check_covers(several, parameters, maker)
            self.optimizers.extend(several)
        if shared:
            self.optimizers.append(BUILTIN[self.spec.optimizer.name](shared["recipe"], self.spec))
        factors = self._rates()
        for o in self.optimizers:
            if factors:
                o.param_groups[:] = [part for g in o.param_groups for part in self._by_rate(g, factors)]
            for g in o.param_groups:
                # what the schedule's factor scales: a method's optimizer may give its groups rates of their own
                g.setdefault("base_lr", g["lr"])

    @staticmethod
    def _check_covers(made: list[torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter], maker: Bound) -> None:
        """An optimizer that leaves a leaf out would leave it untrained without a word."""
        held = [id(p) for o in made for g in o.param_groups for p in g["params"]]
        left = [n for n, p in parameters.items() if id(p) not in held]
        if left or len(held) != len(parameters):
            raise MethodError(
                f"the optimizer of '{maker.name}' does not hold exactly the parameters that it was given"
                + (f": '{left[0]}' is missing" if left else ""),
                remedy="return a torch optimizer, or a list of them, in which each parameter stands once",
            )

    def _rates(self) -> dict[str, float]:
        """Every leaf's factor of the learning rate where it is not 1: the product of what the methods on `rates`
        say.
        """
        factors: dict[str, float] = {}
        leaves = self.trained.parameters()
        for b in self.methods.on("rates"):
            said = self.methods.call(
                b, "rates", parameters=leaves, structure=self.trained.adapted.structure, plan=self.plan
            )
            for name, factor in said.items():
                if name not in leaves:
                    raise MethodError(
                        f"'{b.name}' gives a rate for '{name}', which does not train here",
                        remedy=did_you_mean(name, leaves),
                    )
                if not 0 <= factor < math.inf:
                    raise MethodError(
                        f"'{b.name}' gives '{name}' {factor} times the learning rate",
                        remedy="a factor is a finite number, 0 or more",
                    )
                factors[name] = factors.get(name, 1.0) * float(factor)
        return {n: f for n, f in factors.items() if f != 1.0}

    def _by_rate(self, group: dict[str, Any], factors: Mapping[str, float]) -> list[dict[str, Any]]:
        """A parameter group in one part for each rate, in the order in which they come."""
        parts: dict[float, list[nn.Parameter]] = {}
        for p in group["params"]:
            parts.setdefault(factors.get(self.names[id(p)], 1.0), []).append(p)
        return [{**group, "params": members, "lr": group["lr"] * f, "rate": f} for f, members in parts.items()]

    def set_factor(self, factor: float | Mapping[str, float]) -> float:
        """Scale every group's learning rate; a mapping scales by parameter name (others by its "" entry).

        Returns the largest rate before methods' own factors (`rates`): what is logged.
        """
        rate = 0.0
        for o in self.optimizers:
            for g in o.param_groups:
                f = factor if isinstance(factor, int | float) else factor.get("", 1.0)
                g["lr"] = g["base_lr"] * f
                rate = max(rate, g["base_lr"] * f / (g.get("rate") or 1.0))
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

    def redraw(self, choice: Choice) -> tuple[Places, Places]:
        """Train another choice. Moments are kept, parked or dropped as the choice declares, entry by entry. Returns the
        places of what trained before and of what trains now.
        """
        # The optimizers are built anew for the new leaves (torch has no way to take parameters out of one), so their
        # state is written out by name first and moved over: by name and entry, since leaves are other objects now.
        old_state, old_places = self.state(), self.trained.places()
        makers = {self.names[id(p)]: o for o in self.optimizers for p in o.state}
        moves = self.trained.move(choice.places)
        old_places.update({n: old for n, (old, _) in moves.items()})
        self.trained.set(choice)
        self.parked = {}
        self.build()
        new_places = self.trained.places() | {n: new for n, (_, new) in moves.items()}
        if choice.moments == "drop":
            return old_places, new_places
        for name in [n for n in makers if n in self.trained.leaves and old_places.get(n) is not None]:
            _spread(old_state, name, makers[name])
        moved: dict[str, Tensor] = {}
        for key, t in old_state.items():
            name = key.rpartition("|")[0]
            if name in self.trained.leaves:
                moved[key] = remap(t, old_places.get(name), new_places[name])
            elif choice.moments == "park":
                moved[key] = t
        self.restore(moved)
        self._seed(choice, moves)
        return old_places, new_places

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


def _spread(state: dict[str, Tensor], name: str, optimizer: torch.optim.Optimizer) -> None:
    """Write moments that an optimizer keeps by blocks of entries (it offers `whole`) entry by entry: a choice that
    keeps some of a block's entries would part them from their block's scale.
    """
    if (whole := getattr(optimizer, "whole", None)) is None:
        return
    own = {key: state.pop(key) for key in list(state) if key.rpartition("|")[0] == name}
    packed = {key.rpartition("|")[2]: t for key, t in own.items()}
    entries = whole(packed)
    packed = {k: t for k, t in packed.items() if k == "step"} | entries
    state.update({f"{name}|{k}": t for k, t in packed.items()})


def _placed(key: str, saved: Tensor, parameter: nn.Parameter, group: Mapping[str, Any]) -> Tensor:
    """A saved tensor where torch keeps it: by its parameter, a step count only for fused kernels."""
    return saved.clone() if key == "step" and not group.get("fused") else saved.to(parameter.device, copy=True)
