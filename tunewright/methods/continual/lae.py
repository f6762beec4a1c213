"""LAE: learning, accumulation, ensemble, for tasks that come one after another (papers: lae).

Each task is a stage that starts from the one before with `carry: training`. Facts, from the authors' code (gqk/LAE,
main.py, config/): one adapter, the online expert, goes on learning from task to task; the head has a linear classifier
for each task, and the loss is cross-entropy over the present task's classes alone. From the second task on (a) the
adapter is frozen for the first 3 of 5 epochs, in which the new classifier catches up with it (calibration of the speed
of adaptation); (b) a copy of the adapter made as the task begins, the offline expert, follows after every step: off = m
off + (1 - m) on, m = 0.9999 (accumulation). A prediction takes for each class seen so far the larger of the two
experts' softmax probabilities (ensemble). The head is shared and not averaged; no old row is kept.

Here the online expert is low-rank (the authors': adapter, prefix or key-value LoRA of rank 5 in the first five blocks).
The head does not grow: it has a row for every class from the start (`data.labels`), of which a task trains its own and
a prediction reads those seen, which is the same: old rows keep their bits. Logits are ln of the ensemble's
probabilities. The change does not fold, since two models answer.
"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Candidates, Choice, Need, Needs, Plan, State
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach, deltas_of
from tunewright.models.experts import Ensemble, expert
from tunewright.models.sites import Structure
from tunewright.pieces.heads import classifier_head, classifier_head_name, head_rows, loss_among
from tunewright.pieces.low_rank import LowRankChange
from tunewright.pieces.target_modules import TARGET_MODULES

ONLINE, OFFLINE = "lae-online", "lae-offline"
FOLLOWED = 0.1
"""Share of the way to the online expert below which a plan says that the offline one stands still."""


def larger(logits: Tensor, seen: list[int]) -> Tensor:
    """[R, V] ln of the largest probability that an expert gives a class, of logits [experts, R, V]; 1e-8 for
    classes not `seen`.
    """
    out = torch.zeros_like(logits[0])
    out[:, seen] = torch.softmax(logits[:, :, seen].float(), -1).amax(0).to(out.dtype)
    return out.clamp(min=1e-8).log()


def follow(slow: LowRank, fast: LowRank, momentum: float) -> None:
    """slow = m slow + (1 - m) fast, tensor by tensor."""
    with torch.no_grad():
        for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
            a.lerp_(b, 1 - momentum)


class LAE(LowRankChange):
    """An online and an offline expert over a sequence of tasks."""

    rank: PositiveInt = Field(5, description="rank r of the experts")
    alpha: PositiveFloat = Field(5.0, description="numerator of their scale s = alpha / r")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES, examples=[["query", "value"]]
    )
    momentum: float = Field(
        0.9999, ge=0, lt=1, description="share of itself that the offline expert keeps in a step", examples=[0.5]
    )
    frozen: float = Field(
        0.6, ge=0, lt=1, description="share of a later task's steps in which the head alone trains", examples=[0.0]
    )

    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    carries: ClassVar[Literal["training"]] = "training"
    category: ClassVar[str] = "reparameterised"
    papers: ClassVar[tuple[str, ...]] = ("lae",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "momentum": 0.9}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(),)

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return Ensemble(model, structure, (ONLINE, OFFLINE), lambda logits: self.predict(logits, state))

    def begin_task(self, adapted: Adapted, needs: Needs, state: State, rng: random.Random) -> None:
        head, new = classifier_head(adapted.model), needs.row_labels
        name = classifier_head_name(adapted.model)
        trained = adapted.originals.get(f"{name}.weight")
        old = [] if trained is None or trained.indices is None else (trained.indices // head.in_features).tolist()
        state.data = {
            "head": name,
            "new": new,
            "seen": sorted({*new, *old}),
            "later": bool(expert(adapted.structure, ONLINE)),
        }
        for site in self.sites(adapted.structure):
            deltas = {n.removeprefix(n[: n.rfind("lae-")]): d for n, d in deltas_of(site).items()}
            if ONLINE not in deltas:
                attach(site, ONLINE, self.new_delta(site, needs, state, rng))
            elif OFFLINE not in deltas:
                copy = LowRank.rebuild(deltas[ONLINE].settings(), site)
                copy.load_state_dict(deltas[ONLINE].state_dict())
                copy.strength = 0.0
                attach(site, OFFLINE, copy)

    def caution(self, plan: Plan) -> str | None:
        followed = 1 - self.momentum**plan.steps
        if plan.index == 0 or followed >= FOLLOWED:
            return None
        return (
            f"the offline expert hardly moves: at momentum {self.momentum:g} it follows {followed:.1%} of the way in "
            f"{plan.steps} steps; a momentum of {0.5 ** (1 / plan.steps):.3g} would go half of it"
        )

    def choose(self, candidates: Candidates, step: int, plan: Plan, state: State) -> Choice:
        entries = head_rows(candidates.base, state.data["head"], state.data["new"])
        wait = round(self.frozen * plan.steps) if state.data["later"] else 0
        online = {id(p) for d in expert(candidates.structure, ONLINE) for p in d.parameters()}
        names = (
            () if step < wait else tuple(n for n, p in candidates.adapted.delta_parameters().items() if id(p) in online)
        )
        return Choice(names, entries, redraw_every=wait if step < wait else None, moments="preserve")

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        return Loss(loss_among(outputs.logits, batch.labels, state.data["new"], method="lae"))

    def after_step(self, adapted: Adapted) -> None:
        for slow, fast in zip(expert(adapted.structure, OFFLINE), expert(adapted.structure, ONLINE), strict=False):
            follow(slow, fast, self.momentum)  # type: ignore[arg-type]

    def predict(self, logits: Tensor, state: State) -> Tensor:
        return larger(logits, state.data["seen"])
