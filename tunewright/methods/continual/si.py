"""SI: synaptic intelligence, hold what made an earlier task's loss fall (Zenke et al. 2017, arXiv:1703.04200; papers:
si).

While a task trains, each trained number's share in the fall of the loss is added up along the way; when it ends, the
share for the way that it went becomes an importance:

    w <- w - g (theta_after - theta_before)  at every step;   I_t = max(w, 0) / (D_t^2 + xi mean D_t^2)
    O <- O + I_t / mean I_t                  at the end;      gradient of later tasks: g + 2 c O (theta - theta_begun)

g is the gradient of the step's loss before clipping, D_t how far a number went in the task, theta_begun where the task
began; this is the gradient of the surrogate loss c sum O (theta - theta_begun)^2, which does not count in w, as in the
authors' code. The first task has no importance yet. It costs no backward pass, and four copies of what trains.

It holds what trains: weights, or the factors of a delta. A delta that is folded away when its stage ends has nothing
that a later one could be held to: write `carry: training`, so that the same factors go on (a MethodError says so). A
parameter of which only some entries train is refused, since the next stage may train others.

Defaults: c 1 and xi 0.1 (the authors': c 0.1 to 1, xi 0.001 to 0.1, of importances that are not divided).
Differs from the paper in: xi is a share of the mean squared way and importances are divided by their mean, so that both
mean the same whatever the rate: a fine-tuned weight goes 1e-3, and 0.1 would drown it; shares below 0 count as 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from tunewright.contract.left import Left
from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.pieces.weight_importance import check_shape, normalised

NAME = "si"


def importance(share: Mapping[str, Tensor], way: Mapping[str, Tensor], xi: float) -> dict[str, Tensor]:
    """max(w, 0) / (D^2 + xi mean D^2) over its mean over all entries; the mean of D^2 is over all entries, too."""
    count = sum(d.numel() for d in way.values())
    mean = sum(float(d.double().square().sum()) for d in way.values()) / max(1, count)
    damping = max(xi * mean, 1e-30)
    return normalised({n: w.clamp_min(0) / (way[n].square() + damping) for n, w in share.items()})


def carried_name(name: str, stage: str) -> str:
    """What a trained tensor of `stage` is called in the stage that goes on with it: deltas take its name along."""
    site, mark, rest = name.partition(".delta.")
    return f"{site}{mark}{stage}-{rest}" if mark else name


class SI(Method):
    """Add up what each trained number did for the loss, and hold it back in later tasks by that."""

    coefficient: NonNegativeFloat = Field(1.0, description="c, weight of the surrogate loss", examples=[50.0])
    damping: PositiveFloat = Field(
        0.1, description="xi, what is added to a squared way, as a share of the mean one", examples=[10.0]
    )

    leaves: ClassVar[tuple[str, ...]] = ("importance",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"coefficient": 5.0}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        state, before = State(importance={}, held=[]), run.earlier.inherited(NAME)
        for name, values in _by_new_name(before).items():
            state.set_buffer(f"importance.{name}", values)
            state.data["held"].append(name)
        return state

    def gradient(
        self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], step: int, state: State
    ) -> dict[str, Tensor]:
        if not step and state.data["held"] and not set(state.data["held"]) & set(parameters):
            raise MethodError(
                f"nothing that trains here is what '{NAME}' knows the importance of",
                where=f"'{NAME}'",
                remedy="write carry: training in this stage, so that the factors of the one before go on, or train "
                "weights (methods: [full])",
            )
        held = {}
        for name, g in gradients.items():
            now = parameters[name]
            if state.get(f"begun.{name}") is None:
                state.set_buffer(f"begun.{name}", now.clone())
                state.set_buffer(f"share.{name}", torch.zeros_like(now))
            state.set_buffer(f"gradient.{name}", g.clone())
            state.set_buffer(f"now.{name}", now.clone())
            known, begun = state.get(f"importance.{name}"), state.get(f"begun.{name}")
            if known is not None:
                check_shape(known.shape, now.shape, name, NAME)
            held[name] = g if known is None or begun is None else g + 2 * self.coefficient * known * (now - begun)
        return held

    def after_step(self, adapted: Adapted, parameters: Mapping[str, Tensor], state: State) -> None:
        whole = adapted.base_parameters()
        for name, value in parameters.items():
            if name in whole and whole[name].shape != value.shape:
                raise MethodError(
                    f"some entries of '{name}' train, and '{NAME}' knows whole tensors alone",
                    where=f"'{NAME}'",
                    remedy="take a method that trains whole weights or a delta",
                )
            g, before, share = (state.get(f"{n}.{name}") for n in ("gradient", "now", "share"))
            if g is not None and before is not None and share is not None:
                state.set_buffer(f"share.{name}", share - g * (value.detach() - before))
                state.set_buffer(f"now.{name}", value.detach().clone())
                state.set_buffer(f"gradient.{name}", torch.zeros_like(g))  # what is not drawn next has no share

    def end_task(self, state: State) -> None:
        held = {n.replace("/", "."): t for n, t in state.named_buffers()}
        share = {n.removeprefix("share."): t for n, t in held.items() if n.startswith("share.")}
        way = {n: held[f"now.{n}"] - held[f"begun.{n}"] for n in share}
        for name, values in importance(share, way, self.damping).items():
            before = state.get(f"importance.{name}", torch.zeros_like(values))
            state.set_buffer(f"importance.{name}", before + values)


def _by_new_name(before: Left | None) -> dict[str, Tensor]:
    """What an earlier stage left, by the names that its tensors may have now: as they were, and as carried deltas."""
    values: Mapping[str, Tensor] = before.values["importance"] if before is not None else {}
    return {carried_name(n, before.stage): t for n, t in values.items()} if before is not None else {}
