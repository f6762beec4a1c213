"""EASE: each task's adapter is a subspace in which all classes have prototypes; those of classes whose rows are gone
are made up of what classes alike became (Zhou et al. 2024, arXiv:2403.12030; papers: ease).

While task t trains, its adapter A_t speaks alone, and a cosine classifier w_c of the task's own classes, which is
thrown away when the task ends, reads the features f_t(x) in R^D that the head would read:

    loss = cross-entropy of sigma cos(f_t(x), w_c), sigma learnt from 1

Then p_(c,i) = the mean of f_i over class c's rows, for the task's own classes and all adapters i <= t. A class of task
o has none for i > o, since its rows are gone; with C_i the classes of task i and of those after it

    p_(c,i) = sum over c' in C_i of s_c' p_(c',i),     s = softmax over c' of cos(p_(c,o), p_(c',o))

An answer is softmax(scale y) over the classes so far, of all adapters' features, a class's own one counting most:

    y_c = cos(f_o(x), p_(c,o)) + alpha / (T - 1) sum over i != o of cos(f_i(x), p_(c,i))         T: tasks so far

Each task is a stage that starts from the one before with `carry: frozen`; adapters of earlier tasks are silent while it
trains, and a new one starts as the base. Left to later stages by name: `prototypes` [C, T, D] (zero where made up ones
go), `classes` and `owners`. The model's head is not used. The change does not fold. Cost: as many forwards of a row as
tasks when it is asked. A class whose rows come again belongs to its last task. Replayed rows are refused.

Defaults: alpha 0.1 (the authors'); width 16, scale 10 and the rate are ours (theirs: 64; they read accuracies). The
rate is a quarter of what suits one adapter: trained harder, a subspace tells its own classes apart so sharply that rows
of all others look like one of them. Source: the paper's equations 5 to 10, sun-hailong/LAMDA-PILOT (models/ease.py,
utils/inc_net.py, backbone/linears.py).
Differs from the paper in: adapters stand behind each block with GELU (there: beside its MLP, ReLU).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Bottleneck, set_frozen
from tunewright.models.experts import speaking
from tunewright.models.sites import Site, Structure
from tunewright.pieces.feature_answers import among_seen
from tunewright.pieces.heads import classifier_head, loss_among, pooled_features, pooled_read, read_by_head
from tunewright.pieces.prototypes import class_means, cosine_logits
from tunewright.pieces.task_adapters import adapter_names, began, check_blocks, own_adapter

NAME = "ease"


def completed(prototypes: Tensor, owners: Sequence[int]) -> Tensor:
    """[C, T, D] with the prototypes that classes lack: of class c in the subspaces of tasks after `owners[c]`."""
    whole = prototypes.clone()
    task = torch.tensor(list(owners), device=prototypes.device)
    for i in range(prototypes.shape[1]):
        later = task >= i
        for o in sorted({t for t in owners if t < i}):
            mine = task == o
            alike = cosine_logits(prototypes[mine, o], prototypes[later, o]).softmax(-1)
            whole[mine, i] = alike @ prototypes[later, i]
    return whole


def compared(features: Tensor, prototypes: Tensor, owners: Sequence[int], alpha: float) -> Tensor:
    """[R, C] y of features [R, T, D] and completed prototypes [C, T, D]."""
    tasks = prototypes.shape[1]
    own = F.one_hot(torch.tensor(list(owners), device=prototypes.device), tasks).float()
    weights = own + (1 - own) * alpha / max(1, tasks - 1)
    cosines = torch.stack([cosine_logits(features[:, i], prototypes[:, i]) for i in range(tasks)], -1)
    return (cosines * weights).sum(-1)


class Subspaces(nn.Module):
    """Answers by the prototypes in all adapters' features; while a task trains, the model as it is."""

    def __init__(self, model: Any, structure: Structure, state: State, scale: float, alpha: float):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (structure, state)  # in a tuple: neither is a part of the wrapper
        self.scale, self.alpha = scale, alpha

    def forward(self, **inputs: Any) -> Any:
        structure, state = self._held
        if self.training or not state.data["ended"]:
            return self.model(**inputs)
        names, read, out = adapter_names(NAME, state.data["task"] + 1), [], None
        for name in names:
            with speaking(structure, names, name), read_by_head(self.model) as seen:
                out = self.model(**inputs)
            read.append(pooled_read(seen[-1], inputs).float())
        assert out is not None
        owners, classes = state.data["owners"], state.data["classes"]
        whole = completed(state.get_buffer("prototypes"), owners)
        y = self.scale * compared(torch.stack(read, 1), whole, owners, self.alpha)
        columns = torch.tensor(classes, device=y.device)
        out.logits = among_seen(torch.zeros_like(out.logits).index_copy(1, columns, y.to(out.logits.dtype)), classes)
        return out


class EASE(Method):
    """An adapter and its subspace for each task; prototypes of all classes in all of them answer together."""

    width: PositiveInt = Field(16, description="width a of an adapter", examples=[3])
    alpha: NonNegativeFloat = Field(
        0.1, description="how much the subspaces of other tasks count in a class's answer", examples=[1.0]
    )
    scale: PositiveFloat = Field(10.0, description="what the sum of cosines is multiplied by", examples=[1.0])

    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification", "text-classification")
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-4}
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = ("prototypes", "classes", "owners")
    category: ClassVar[str] = "additive"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"width": 2}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(), RowFeatures())

    def setup(self, run: Setup) -> State:
        check_blocks(run.structure, NAME)
        state = State(classes=[], owners=[], ended=False, task=0, complete=run.earlier.complete)
        before = run.earlier.inherited(NAME)
        if before is not None:
            state.data |= {n: list(before.values[n]) for n in ("classes", "owners")}
            state.set_buffer("prototypes", before.values["prototypes"])
        return state

    def attach(self, site: Site, rng: random.Random) -> Bottleneck | None:
        return own_adapter(site, self.width, rng)

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return Subspaces(model, structure, state, self.scale, self.alpha)

    def begin_task(self, adapted: Adapted, needs: Needs, state: State, rng: random.Random) -> None:
        task = began(adapted.structure, NAME, state.data["owners"], state.data["complete"])
        if not task:  # a sequence begins, whatever other stages left
            state.data |= {"classes": [], "owners": []}
            state.drop("prototypes")
        state.data |= {"task": task, "new": needs.row_labels, "ended": False}
        for name in adapted.new:
            set_frozen(adapted.base_parameters()[name], True)  # answers are by prototypes
        width = classifier_head(adapted.model).in_features
        drawn = torch.empty(len(state.data["new"]), width)
        drawn.uniform_(-(width**-0.5), width**-0.5, generator=torch_generator(rng))
        state.register_parameter("proxies", nn.Parameter(drawn))
        state.register_parameter("sigma", nn.Parameter(torch.ones(())))

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        said = state.get_parameter("sigma") * cosine_logits(pooled_features(outputs), state.get_parameter("proxies"))
        columns = torch.tensor(state.data["new"], device=said.device)
        among = torch.zeros_like(outputs.logits, dtype=torch.float32).index_copy(1, columns, said)
        return Loss(loss_among(among, batch.labels, state.data["new"], method=NAME))

    def end_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        new, task = state.data["new"], state.data["task"]
        names, read, labels = adapter_names(NAME, task + 1), [], None
        for name in names:
            with speaking(adapted.structure, names, name):
                features, labels = needs.row_features()
            means = class_means(features, labels)
            read.append(torch.stack([means[c] for c in new]))
        told = torch.stack(read, 1)
        kept = [i for i, c in enumerate(state.data["classes"]) if c not in new]
        held = state.get("prototypes")
        if held is not None and kept:
            told = torch.cat([F.pad(held[kept], (0, 0, 0, told.shape[1] - held.shape[1])).to(told.device), told])
        state.set_buffer("prototypes", told)
        state.data |= {
            "classes": [*(state.data["classes"][i] for i in kept), *new],
            "owners": [*(state.data["owners"][i] for i in kept), *(task for _ in new)],
            "ended": True,
        }
        del state.proxies, state.sigma
