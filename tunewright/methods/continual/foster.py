"""FOSTER: a new module learns what the model lacks for a task, then both become one model again (Wang et al. 2022,
arXiv:2204.04662; papers: foster).

    boosting     z(x) = W [f(x); h(x)] + b: f the model as the task began, held still; h a copy of it that trains
                 loss = CE(z / w1) + CE(V h(x) + v) + kd_weight KD(z of older classes, f's own answer)
    compression  the model begins anew as f, with an answer u(x) = U f(x) + c that knows f's classes, and
                 loss = - sum over classes of q log softmax(u / T),  q = softmax(z / T) w2 / sum(softmax(z / T) w2)

The first task trains with cross-entropy. KD(a, b) = - sum softmax(b / T) log softmax(a / T); w1 and w2 [C] are
(1 - beta) / (1 - beta^n), n the rows of a class (of an older one, those that are kept), with a mean of 1: they divide
the logits by `beta_boosting`, and weigh the teacher's answer by `beta_compression`, so that classes of few rows count
more. The step's loss is over its rows and as many kept ones: `buffer_size` // classes rows of each class, those nearest
its mean (herding), chosen when its task ends.

The first `boosting` of a later task's steps is boosting. While it trains, memory holds f's parameters whole, and h's
while these are compressed; between tasks nothing but the answer, the classes and the rows. The optimizer's moments are
dropped between the two. A stage that ends before compression keeps h and its own answer V h(x) + v. All parameters but
the head's last layer train; what would train beside it is refused. Each task is a stage that starts from the one before
with `carry: frozen`; the change does not fold, since the answer is no layer of the model's.

Defaults: half of the steps each, T 2, beta 0.96 and 0.97, kd_weight 1 (PILOT's for ViT); 500 rows (PILOT: 20 a class);
the rate is ours. Source: the paper's sections 3 and 4, sun-hailong/LAMDA-PILOT (models/foster.py, exps/foster.json:
oofc "ft", no weight alignment).
Differs from the paper in: kept rows are drawn beside each step's (there: mixed into the epoch), and chosen by the
compressed model's features (the code: by those of f and h); the schedule runs once over both parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Candidates, Choice, Need, Needs, Plan, Setup, State
from tunewright.methods.needs.class_counts import ClassCounts
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.pieces.extractors import (
    ANSWER,
    EXTRACTORS,
    NEWEST,
    ExtractorMethod,
    answer_of,
    extractor_names,
    grown,
    kept,
    no_deltas,
    own_features,
    placed,
    places_of,
    read_as,
)
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.rehearsal import LEAVES

NAME = "foster"
BEFORE, BOOSTED = "before", "boosted"
OLD, TEACHER = "features_before", "teacher_logits"
"""Notes of a forward: features of the model as the task began, and the two modules' answer."""


def balanced(counts: Sequence[int], beta: float) -> Tensor:
    """[C] (1 - beta) / (1 - beta^n) of classes with n rows, brought to a mean of 1."""
    effective = 1 - beta ** torch.tensor(list(counts), dtype=torch.float64).clamp(min=1)
    weights = (1 - beta) / effective
    return (weights / weights.mean()).float()


def distilled(said: Tensor, teacher: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """[R] cross-entropy of logits [R, C] with the teacher's softened answer, whose classes count by `weights` [C]."""
    wanted = (teacher / temperature).softmax(-1)
    if weights is not None:
        wanted = wanted * weights
        wanted = wanted / wanted.sum(-1, keepdim=True)
    return -(wanted * (said / temperature).log_softmax(-1)).sum(-1)


class Boosted(nn.Module):
    """Answers by the model and, while it is boosted, by what it was as the task began; `state.data["phase"]`."""

    def __init__(self, model: Any, state: State):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (state,)  # in a tuple: no part of the wrapper

    def forward(self, **inputs: Any) -> Any:
        (state,) = self._held
        phase, classes = state.data["phase"], state.data["classes"]
        if not classes:
            return self.model(**inputs)
        teaches = phase == "compress" and self.training
        others = [BEFORE] if phase == "boost" else [BEFORE, BOOSTED] if teaches else []
        read = [read_as(self.model, kept(state, other), inputs) for other in others]
        own, out = own_features(self.model, inputs)
        if (now := context.told()) is not None:
            now.note(NEWEST, own)
            if phase == "boost":
                now.note(OLD, read[0])
            elif teaches:
                now.note(TEACHER, F.linear(torch.cat(read, 1), *answer_of(state)).detach())
        if phase == "compress":
            said = F.linear(own, state.get_parameter("student"), state.get_parameter("student_bias"))
        else:
            said = F.linear(torch.cat([*read, own], 1), *answer_of(state))
        return placed(out, said, classes, self.training)


class FOSTER(ExtractorMethod):
    """A new module for what the model lacks, then both distilled into one."""

    boosting: float = Field(
        0.5, gt=0, lt=1, description="share of a later task's steps in which the new module trains", examples=[0.25]
    )
    temperature: PositiveFloat = Field(2.0, description="T, by which answers are softened", examples=[1.0])
    kd_weight: NonNegativeFloat = Field(
        1.0, description="how strongly boosting holds to the old answer of older classes", examples=[10.0]
    )
    beta_boosting: float = Field(
        0.96, gt=0, lt=1, description="how much classes of few rows count more in boosting", examples=[0.5]
    )
    beta_compression: float = Field(
        0.97, gt=0, lt=1, description="how much classes of few rows count more in compression", examples=[0.5]
    )

    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, ANSWER, "classes")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(), RowFeatures(), StageRows(), ClassCounts())

    def caution(self, plan: Plan) -> str | None:
        if plan.index and plan.exact and plan.steps < 2:
            return "one step is boosting alone, and nothing is compressed: give a task two steps or more"
        if plan.index and not plan.exact:
            return (
                "how many steps this stage takes is not known: it may end before compression, and keep the new module "
                "alone; write a budget in steps or tokens"
            )
        return None

    def _switch(self, plan: Plan) -> int:
        return min(max(1, round(self.boosting * plan.steps)), plan.steps - 1)

    def setup(self, run: Setup) -> State:
        state, before = State(classes=[], known=[], phase=""), run.earlier.inherited(NAME)
        self._buffer(state).begin(run, before)
        state.data |= {ANSWER: {}, "counts": []}
        if before is None:
            return state
        state.data |= {"classes": list(before.values["classes"]), "known": list(before.values["classes"])}
        for name, tensor in before.values[ANSWER].items():
            state.set_buffer(f"{ANSWER}.{name}", tensor)
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return Boosted(model, state)

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        known, new = state.data["known"], needs.class_counts
        classes = [*known, *(c for c in needs.row_labels if c not in known)]
        held = [c for _, c in self._buffer(state).slots]
        state.data |= {"classes": classes, "counts": [new.get(c, held.count(c)) for c in classes]}
        width = classifier_head(adapted.model).in_features
        before = {n: state.get_buffer(f"{ANSWER}/{n}") for n in ("weight", "bias")} if known else {}
        answers = {"": 2 if known else 1, **({"own": 1, "student": 1} if known else {})}
        for name, modules in answers.items():
            starts = {} if name == "own" else before
            weight, bias = grown(starts, len(classes), width * modules, state)
            state.register_parameter(name or "weight", weight)
            state.register_parameter(f"{name}_bias" if name else "bias", bias)
        if known:
            state.data["phase"] = "boost"
            there = adapted.base_parameters()
            for name in extractor_names(adapted.model, list(there)):
                state.set_buffer(f"{EXTRACTORS}.{BEFORE}.{name}", there[name].detach().clone())

    def choose(self, candidates: Candidates, plan: Plan, state: State) -> Choice:
        """All that makes features; drawn again, without moments, when compression begins."""
        no_deltas(candidates, NAME)
        names = extractor_names(candidates.adapted.model, list(candidates.base))
        return Choice(names, redraw_every=self._switch(plan) or None if state.data["phase"] == "boost" else None)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        classes, known, phase = state.data["classes"], state.data["known"], state.data["phase"]
        device = outputs.logits.device
        said = outputs.logits[:, torch.tensor(classes, device=device)].float()
        labels = places_of(batch.labels, classes, NAME)
        if not phase:
            return Loss(F.cross_entropy(said, labels, reduction="none"))
        notes = outputs.present.notes
        if phase == "compress":
            weights = balanced(state.data["counts"], self.beta_compression).to(device)
            return Loss(distilled(said, notes[TEACHER][-1], self.temperature, weights))
        weights = balanced(state.data["counts"], self.beta_boosting).to(device)
        own = F.linear(notes[NEWEST][-1], state.get_parameter("own"), state.get_parameter("own_bias"))
        old = F.linear(notes[OLD][-1], *(state.get_buffer(f"{ANSWER}/{n}") for n in ("weight", "bias")))
        held = distilled(said[:, : len(known)], old, self.temperature)
        both = [F.cross_entropy(z, labels, reduction="none") for z in (said / weights, own)]
        return Loss(both[0] + both[1] + self.kd_weight * held, logs={"own": both[1], "old": held})

    def after_step(
        self, step: int, plan: Plan, adapted: Adapted, parameters: Mapping[str, Tensor], state: State
    ) -> None:
        if state.data["phase"] != "boost" or step != self._switch(plan):
            return
        state.data["phase"] = "compress"
        there = adapted.base_parameters()
        for name, value in kept(state, BEFORE).items():
            state.set_buffer(f"{EXTRACTORS}.{BOOSTED}.{name}", there[name].detach().clone())
            for held in (there[name], parameters[name]):  # one tensor, or its master beside it
                held.data.copy_(value)

    def end_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        of = {"": "", "boost": "own", "compress": "student"}[state.data["phase"]]
        weight, bias = state.get_parameter(of or "weight"), state.get_parameter(f"{of}_bias" if of else "bias")
        self._answers_by(state, weight, bias)
        for other in (BEFORE, BOOSTED):
            for name in kept(state, other):
                state.drop(f"{EXTRACTORS}.{other}.{name}")
        state.data["phase"] = ""
        features, labels = needs.row_features()
        self._buffer(state).herd(needs.stage_rows, features, labels)
