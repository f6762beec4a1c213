"""R-AMT: which of the picture tower's attention weights a task does without, learnt bit by bit and held to the model as
it was (Zheng et al. 2023, arXiv:2307.15049; papers: r-amt).

A model of two towers (CLIP and its kin). Each weight W [out, in] of a query, key, value or output layer of the picture
tower has scores s [out, in]; nothing of the model moves but by them:

    W' = W where s > tau, 0 elsewhere             dL/ds = W dL/dW'                          (straight-through)
    L_a = cross-entropy of a picture among the texts of the stage's rows + w sum over weights of |s|_2
    L_b = cross-entropy of the same answers to those of the model before any mask
    P   = (1 + sgn(a) (a + b) / (|a| + |b| + 1e-8)) / 2,   a, b [out, in] the gradients of L_a and L_b
    g   = a where P > U, (1 - drop) a elsewhere,  U uniform in 0..1, drawn anew for each entry and step

L_b is not followed: it only says what is dropped, so that what a task learns does not go against what was known. Where
both gradients have one sign everything is kept; where they cancel, half. `drop: 0` is mask tuning without it. s moves
by AdamW. Texts are read once, when the stage begins: the text tower stays, and so does what earlier stages left.

Defaults: s starts at 0.01, tau 0.005, w 1e-4, drop 1 (authors' configs; by their README 0.3 on small sets of 16 shots);
the rate is theirs, 8e-5 at a width of 768. Adam moves a score by about its rate a step, so that the first weights go
after (0.01 - tau) / rate steps; a plan of fewer says so. What is saved and exported are weights, most of them the
base's; a mask of one bit a weight is what is not 0 in them.
Raises MethodError for a start that tau leaves nothing of, a picture tower without such layers, rows of one text, and
beside a change that trains or a method that wraps the model.
Differs from the paper in: layers are hard-wired, as in the authors' code (the paper picks them by their gradients);
the two losses have a forward each, without dropout between them in CLIP; no masks of convolutions (ResNet towers).
Source: wuw2019/R-AMT, code/modules/masklayers.py, code/trainers/masktuning.py and configs (read, not run).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.found import Found
from tunewright.contract.method import (
    Choice,
    Method,
    Need,
    Needs,
    Plan,
    Setup,
    State,
    torch_generator,
)
from tunewright.errors import MethodError
from tunewright.methods.needs.row_texts import RowTexts, Text
from tunewright.models.adapted import Adapted
from tunewright.pieces.class_texts import check_several, own_text, text_vectors
from tunewright.pieces.extractors import lent
from tunewright.pieces.masking_adam import MaskingAdam
from tunewright.training.inner import Inner

NAME = "r-amt"
SMALLEST = 1e-8
"""Added to |a| + |b|."""


def kept_with(a: Tensor, b: Tensor) -> Tensor:
    """P in 0..1: how likely each entry of the gradient a is kept beside b, of one shape."""
    return (1 + a.sign() * (a + b) / (a.abs() + b.abs() + SMALLEST)) / 2


def regularised(a: Tensor, b: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """a, of which `drop` is taken away in the entries that a draw against `kept_with` loses."""
    drawn = torch.rand(a.shape, generator=generator).to(a.device)
    return a * torch.where(kept_with(a, b) > drawn, 1.0, 1.0 - drop)


class RAMT(Method):
    """Masks on the picture tower's attention, whose gradients are dropped where they fight the model as it was."""

    layers: Literal["attention", "mlp", "all"] = Field(
        "attention", description="linear layers of the picture tower's blocks that are masked"
    )
    start: PositiveFloat = Field(0.01, description="where every score starts", examples=[0.02])
    threshold: float = Field(0.005, description="tau, above which a score keeps its weight", examples=[0.009])
    norm: NonNegativeFloat = Field(1e-4, description="w, weight of the scores' lengths in the loss", examples=[10.0])
    drop: float = Field(
        1.0, ge=0, le=1, description="share of a gradient that is taken away where it is dropped", examples=[0.0, 0.3]
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 6.4e-5}
    tasks: ClassVar[tuple[str, ...] | None] = ("zero-shot-image-classification",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)

    def needs(self) -> tuple[Need, ...]:
        return (RowTexts(),)

    def caution(self, plan: Plan) -> str | None:
        steps = (self.start - self.threshold) / plan.learning_rate
        if steps <= plan.steps:
            return None
        return (
            f"a score moves by about the learning rate a step, {plan.learning_rate:g}, so that the first weights are "
            f"masked after about {steps:,.0f} steps, and there are {plan.steps:,}: raise train.learning_rate, the "
            f"budget, or {NAME}.threshold"
        )

    def setup(self, run: Setup) -> State:
        if self.start <= self.threshold:
            raise MethodError(
                f"scores start at {self.start:g}, which is not above {self.threshold:g}: every weight would be 0",
                where=f"{NAME}.threshold",
                remedy="write one below `start`",
            )
        tower = next((n for n, m in run.adapted.model.named_modules() if m is _tower(run.adapted)), "")
        roles = ("attention", "mlp") if self.layers == "all" else (self.layers,)
        inside = [s for s in run.structure.linear_sites() if s.name.startswith(f"{tower}.") and s.role in roles]
        if not tower or not inside:
            raise MethodError(
                f"the picture tower has no linear layer of the kind '{self.layers}'",
                where=f"{NAME}.layers, model",
                remedy="use a model of two towers whose pictures a vision transformer reads",
            )
        state = State(seed=run.rng.getrandbits(32), keys=[])
        for site in inside:
            state.set_buffer(f"scores.{site.weight_name}", torch.full(site.weight.shape, self.start))
        # as the stage finds them: no part of the state, since a checkpoint is read back onto the same weights
        vars(state)["starts"] = {s.weight_name: s.weight.detach().float().clone() for s in inside}
        return state

    def choose(self, state: State) -> Choice:
        return Choice(tuple(vars(state)["starts"]))

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float, state: State
    ) -> torch.optim.Optimizer:
        starts: Mapping[str, Tensor] = vars(state)["starts"]
        return MaskingAdam(
            parameters,
            lambda n: state.get(f"scores.{n}"),
            lambda n: starts[n].to(parameters[n].device),
            self.threshold,
            learning_rate,
            weight_decay,
        )

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        texts: list[Text] = needs.row_texts
        check_several(texts)
        if adapted.wrapper is not None:
            raise MethodError(
                "masks are learnt on the towers as they are, and another method reads pictures or texts here",
                where=f"methods, beside '{NAME}'",
                remedy="put it into a stage of its own",
            )
        if adapted.trainable_deltas():
            raise MethodError(
                "masks are held to the model as the stage found it, and another method's change trains here",
                where=f"methods, beside '{NAME}'",
                remedy="put it into a stage of its own, and carry it: frozen or fold",
            )
        state.data["keys"] = [t.key for t in texts]
        state.set_buffer("texts", text_vectors([t.ids for t in texts], adapted))

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        return Loss(cross_entropy(_said(outputs, state), own_text(batch, state.data["keys"]), reduction="none"))

    def step(self, inner: Inner, adapted: Adapted, step: int, state: State) -> None:
        before = self._before(inner, adapted, state)

        def towards(outputs: Outputs, batch: Batch, places: Sequence[int]) -> Loss:
            return Loss(cross_entropy(_said(outputs, state), before[list(places)].softmax(-1), reduction="none"))

        against, cross = inner.gradients_of(inner.rows, towards)
        own = {n: g.clone() for n, g in inner.gradients().items()}
        inner.record["zero_shot"] = cross
        generator = torch_generator(random.Random(f"{state.data['seed']}/{step}"))
        starts: Mapping[str, Tensor] = vars(state)["starts"]
        for name in sorted(set(own) & set(starts)):
            weight, scores = starts[name].to(own[name].device), state.get(f"scores.{name}")
            assert scores is not None
            a = own[name] * weight + self.norm * scores / scores.norm().clamp_min(SMALLEST)
            own[name] = regularised(a, against[name] * weight, self.drop, generator)
        inner.leave(own)

    def _before(self, inner: Inner, adapted: Adapted, state: State) -> Tensor:
        """[R, C] what the model answered of the step's rows before any mask."""
        batches = inner.batches(range(len(inner.rows)))
        with lent(adapted.model, vars(state)["starts"]), inner.reading() as read:
            return torch.cat([_said(read(b), state) for b in batches])

    def found(self, state: State) -> Found | None:
        scores = [b for n, b in state.named_buffers() if n.startswith("scores")]
        total, masked = sum(s.numel() for s in scores), sum(int((s <= self.threshold).sum()) for s in scores)
        return Found(
            "Masked weights",
            "weights of the picture tower that have a score; those that are 0 in the end, and their share",
            {"weights": total, "masked": masked, "share": masked / total},
        )


def _tower(adapted: Adapted) -> nn.Module | None:
    """What reads pictures, in a model of two towers."""
    found: nn.Module | None = getattr(adapted.model, "vision_model", None)
    return found


def _said(outputs: Outputs, state: State) -> Tensor:
    """[R, C] a picture's logits among the texts."""
    assert outputs.features is not None
    said: Tensor = outputs.features.float() @ state.get_buffer("texts").T
    return said
