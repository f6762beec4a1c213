"""MOS: model surgery for classes that come task by task (Sun et al. 2025, arXiv:2412.09441; papers: mos).

Each task is a stage that starts from the one before, with `carry: frozen`. Task t (from 0) has an adapter A_t on the
output h in R^d of every block, h <- h + U gelu(D h + b) + c, which starts where A_(t-1) ended and is merged, after
every step and tensor by tensor, with those before it:

    A_t <- (1 - m) A_t + m / t sum_(s < t) A_s                                             m: `momentum`, 0.1

The loss is cross-entropy over the task's own classes alone. Of a new head that has several layers the last one alone
trains: the others make features, which later tasks would move. What a task leaves when it ends, by class c of its rows:

    p_c          mean feature by A_0: the prototype of a cosine classifier (SimpleCIL)
    mu_c, S_c    mean and covariance of its features by A_t

From the second task on the head's rows of all classes so far are then trained on features drawn from N(mu_c, S_c)
(classifier alignment), since each task's rows were trained apart. A model that is asked retrieves an adapter for each
row, without any training: the prototypes' likeliest class names a task; that task's adapter answers by the head; where
the class that it says is of another task, that one's adapter answers in its place, until the two agree or `rounds`
answers were given. What is said is the mean of two distributions over the classes seen:

    softmax(head(f_t))   and   softmax(T cos(f_0, p))                                      T: tasks so far

(`ensemble: false`: the first alone.) Logits are ln of it. While a task trains, its adapter alone answers. The task
retrieved for each row is noted as `outputs.present.notes["retrieved"]`.

Left to later stages by name: `prototypes`, `means` [C, d], `covariances` [C, d, d], `classes` and `owners` (their
tasks). Replayed rows are refused. The change does not fold. A class whose rows come again belongs to its last task.

Defaults: the authors' (exps/*.json). Memory: d x d numbers a class; `covariance: diagonal` keeps d (their "variance").
Differs from the paper in: adapters stand behind each block with GELU (there: beside its MLP, ReLU, scale 0.1, dropout
0.1); one merge a step (the authors' code merges once more for every block of every forward, in evaluation too, so that
their adapters tend to the mean of the earlier ones); no term that pushes features from one another (their `reg`; not in
the abstract); the head has a row for every class from the start (`data.labels`), of which a task's loss sees its own.
Source: sun-hailong/AAAI25-MOS, models/mos.py, backbone/vit_mos.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Bottleneck, set_frozen
from tunewright.models.experts import expert, speaking
from tunewright.models.sites import Site, Structure
from tunewright.pieces.class_gaussians import aligned_head, class_covariances
from tunewright.pieces.heads import classifier_head, classifier_head_name, loss_among, pooled_read, read_by_head
from tunewright.pieces.prototypes import class_means, cosine_logits
from tunewright.pieces.task_adapters import adapter_name, began, check_blocks, own_adapter

NAME = "mos"
KEPT = ("prototypes", "means", "covariances")
LEAST = 1e-8
"""The probability of a class that was not seen yet."""


def named(task: int) -> str:
    """What a task's adapters are called."""
    return adapter_name(NAME, task)


def merged(own: Tensor, earlier: list[Tensor], momentum: float) -> Tensor:
    """(1 - m) own + m times the mean of the earlier tasks' tensors of that name; without any, `own`."""
    return own if not earlier else (1 - momentum) * own + momentum * torch.stack(earlier).mean(0)


def refined(first: Tensor, answer: Callable[[int], Tensor], owners: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """(logits [R, C], task [R]): each row's answer by the adapter that it ends with.

    `first` [R]: the task that a row begins with; `answer(t)` [R, C]: all rows' logits by task t's adapter, asked for
    where some row needs it; `owners` [C]: the task of each class. At most `rounds` answers a row.
    """
    task, settled, logits = first, torch.zeros_like(first, dtype=torch.bool), torch.empty(0)
    for k in range(rounds):
        for t in sorted(set(task[~settled].tolist())):
            said = answer(t)
            logits = said.clone() if not logits.numel() else logits
            logits = torch.where(((task == t) & ~settled)[:, None], said, logits)
        following = owners[logits.argmax(-1)]
        settled = settled | (following == task)
        if k + 1 == rounds or bool(settled.all()):
            break
        task = following
    return logits, task


class Retrieval(nn.Module):
    """A classifier that picks an adapter for each row by its own answers; while a task trains, the model as it is."""

    def __init__(self, model: Any, structure: Structure, state: State, rounds: int, ensemble: bool):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (structure, state)  # in a tuple: neither is a part of the wrapper
        self.rounds, self.ensemble = rounds, ensemble

    def forward(self, **inputs: Any) -> Any:
        structure, state = self._held
        if self.training or not state.data["ended"]:
            return self.model(**inputs)
        names = [named(t) for t in range(state.data["task"] + 1)]
        ran: dict[int, tuple[Any, Tensor]] = {}

        def run(task: int) -> Tensor:
            if task not in ran:
                with speaking(structure, names, names[task]), read_by_head(self.model) as seen:
                    out = self.model(**inputs)
                ran[task] = (out, seen[-1])
            logits: Tensor = ran[task][0].logits
            return logits[:, classes.to(logits.device)].float()

        prototypes = state.get_buffer("prototypes")
        classes, owners = (torch.tensor(state.data[n], device=prototypes.device) for n in ("classes", "owners"))
        run(0)
        alike = cosine_logits(pooled_read(ran[0][1], inputs), prototypes)
        logits, task = refined(owners[alike.argmax(-1)], run, owners, self.rounds)
        said = logits.softmax(-1)
        if self.ensemble:
            said = (said + (len(names) * alike).softmax(-1)) / 2
        out = next(reversed(ran.values()))[0]
        out.logits = out.logits.new_full(out.logits.shape, LEAST).index_copy(1, classes, said.to(out.logits.dtype))
        out.logits = out.logits.clamp(min=LEAST).log()
        now = context.told()
        if now is not None:
            now.note("retrieved", task)
        self._show(task, {t: read for t, (_, read) in ran.items()})
        return out

    def _show(self, task: Tensor, read: Mapping[int, Tensor]) -> None:
        """Let whoever reads what the head is given see each row by its own adapter: the head's last call counts."""
        own = read[0]
        for t, features in read.items():
            own = torch.where((task == t).view(-1, *[1] * (features.dim() - 1)), features, own)
        classifier_head(self.model)(own)


class MOS(Method):
    """An adapter for each task, merged with those before while it trains, and retrieved by the model's own answers."""

    width: PositiveInt = Field(16, description="width a of an adapter", examples=[3])
    momentum: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="how far a step takes a task's adapter to the mean of those before it",
        examples=[0.5],
    )
    covariance: Literal["full", "diagonal"] = Field(
        "full", description="what is kept of how a class's features spread: d x d numbers, or d variances"
    )
    align_epochs: NonNegativeInt = Field(
        30, description="epochs of the head's training on drawn features; 0: it is not aligned", examples=[0]
    )
    align_rows: PositiveInt = Field(240, description="features drawn of each class in an epoch", examples=[5])
    align_rate: PositiveFloat = Field(5e-3, description="learning rate of the head's training on drawn features")
    rounds: PositiveInt = Field(4, description="answers that a row gets at most until its adapter stays", examples=[1])
    ensemble: bool = Field(True, description="the prototypes' answer counts half in what is said")

    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = ("classes", "owners", *KEPT)
    category: ClassVar[str] = "additive"
    papers: ClassVar[tuple[str, ...]] = ("mos",)
    conformance: ClassVar[dict[str, object]] = {"width": 2, "align_epochs": 3, "align_rows": 8, "align_rate": 0.05}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(), RowFeatures())

    def setup(self, run: Setup) -> State:
        check_blocks(run.structure, NAME)
        state = State(classes=[], owners=[], ended=False, complete=run.earlier.complete)
        before = run.earlier.inherited(NAME)
        if before is not None:
            state.data |= {n: list(before.values[n]) for n in ("classes", "owners")}
            for name in KEPT:
                state.set_buffer(name, before.values[name])
        return state

    def attach(self, site: Site, rng: random.Random) -> Bottleneck | None:
        return own_adapter(site, self.width, rng)

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return Retrieval(model, structure, state, self.rounds, self.ensemble)

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        task = began(adapted.structure, NAME, state.data["owners"], state.data["complete"])
        if not task:  # a sequence begins, whatever other stages left
            state.data |= {"classes": [], "owners": []}
        head = classifier_head_name(adapted.model)
        state.data |= {"task": task, "new": needs.row_labels, "ended": False}
        for name in adapted.new:
            set_frozen(adapted.base_parameters()[name], name.rpartition(".")[0] != head)
        if task:
            pairs = zip(*(expert(adapted.structure, named(t)) for t in (task, task - 1)), strict=True)
            for new, last in pairs:
                new.load_state_dict(last.state_dict())

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        return Loss(loss_among(outputs.logits, batch.labels, state.data["new"], method=NAME))

    def after_step(self, adapted: Adapted, state: State) -> None:
        task = state.data["task"]
        for adapters in zip(*(expert(adapted.structure, named(t)) for t in range(task + 1)), strict=True):
            *earlier, own = (list(a.parameters()) for a in adapters)
            with torch.no_grad():
                for i, p in enumerate(own):
                    p.copy_(merged(p, [e[i] for e in earlier], self.momentum))

    def end_task(self, adapted: Adapted, needs: Needs, state: State, rng: random.Random) -> None:
        task = state.data["task"]
        names = [named(t) for t in range(task + 1)]
        features, labels = needs.row_features()
        with speaking(adapted.structure, names, names[0]):
            first, _ = needs.row_features()
        new = {
            "prototypes": class_means(first, labels),
            "means": class_means(features, labels),
            "covariances": class_covariances(features, labels, diagonal=self.covariance == "diagonal"),
        }
        old = [i for i, c in enumerate(state.data["classes"]) if c not in state.data["new"]]
        for name, values in new.items():
            told = torch.stack([values[c] for c in state.data["new"]])
            before = state.get(name) if old else None
            state.set_buffer(name, told if before is None else torch.cat([before[old], told.to(before.device)]))
        owners = [state.data["owners"][i] for i in old]
        state.data["classes"] = [*(state.data["classes"][i] for i in old), *state.data["new"]]
        state.data["owners"] = [*owners, *(task for _ in state.data["new"])]
        if task and self.align_epochs:
            self._align(adapted, state, rng)
        state.data["ended"] = True

    def _align(self, adapted: Adapted, state: State, rng: random.Random) -> None:
        """Train the head's rows of all classes so far on features that are drawn of each."""
        head, name, classes = classifier_head(adapted.model), classifier_head_name(adapted.model), state.data["classes"]
        weight, bias = aligned_head(
            head.weight[classes],
            None if head.bias is None else head.bias[classes],
            state.get_buffer("means"),
            state.get_buffer("covariances"),
            epochs=self.align_epochs,
            rows=self.align_rows,
            rate=self.align_rate,
            generator=torch_generator(rng),
        )
        for leaf, values in (("weight", weight), ("bias", bias)):
            if values is not None:
                adapted.remember(f"{name}.{leaf}")
                with torch.no_grad():
                    getattr(head, leaf)[classes] = values.to(head.weight.dtype)
