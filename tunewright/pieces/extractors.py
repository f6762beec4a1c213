"""Feature extractors that are kept beside the model, and answers by all of their features: what methods share that give
each task an extractor of its own. R rows, D size of the features, T extractors, C classes so far.

    f_t(x)   what the head reads of x by extractor t                                                          [R, D]
    answer   softmax(W [f_1(x); ...; f_T(x)] + b) over the classes so far                        W [C, T D], b [C]

The newest extractor is the model itself, as it trains; of each earlier one those parameters are kept that are not the
model's any more, as buffers "extractors.<t>.<parameter>" of the method's state. They are lent to the model while it
reads rows: in memory there are one model and the kept tensors, and a row costs as many forwards as there are
extractors. A model whose running statistics belong to the base keeps them in all (`models/modes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Candidates, Choice, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.models.modes import evaluating
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import among_seen
from tunewright.pieces.heads import classifier_head, classifier_head_name, pooled_read, read_by_head
from tunewright.pieces.rehearsal import LEAVES, Keep, RehearsalMethod

EXTRACTORS, ANSWER, NEWEST = "extractors", "answer", "newest_features"
"""What begins the names of kept parameters and of the answer's, and the note of a forward with the newest features."""


def extractor_names(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Those of a model's parameters that make its features: all but the last layer of its head."""
    head = classifier_head_name(model)
    return tuple(n for n in names if n.rpartition(".")[0] != head)


@contextmanager
def lent(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in the places of a model's parameters, by name, without a graph inside."""
    there = dict(model.named_parameters())
    held = {n: there[n].data for n in values}
    try:
        for n, value in values.items():
            there[n].data = value.to(there[n].device, there[n].dtype)
        with torch.no_grad():
            yield
    finally:
        for n, data in held.items():
            there[n].data = data


def kept(state: State, t: int | str) -> dict[str, Tensor]:
    """The parameters that are kept of an extractor, by name."""
    begins = f"{EXTRACTORS}/{t}/"
    return {
        n.removeprefix(begins).replace("/", "."): tensor for n, tensor in state.named_buffers() if n.startswith(begins)
    }


def own_features(model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """([R, D] features, the output) of a model as it is."""
    with read_by_head(model) as seen:
        out = model(**inputs)
    return pooled_read(seen[-1], inputs).float(), out


def read_as(model: Any, values: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Tensor:
    """[R, D] features by the extractor with these values, without dropout and without gradient."""
    with evaluating(model), lent(model, values):
        return own_features(model, inputs)[0]


def placed(out: Any, said: Tensor, classes: Sequence[int], training: bool) -> Any:
    """An output whose logits are those of `said` [R, C] at their classes: as they are while it trains, else
    log-probabilities among the classes.
    """
    columns = torch.tensor(list(classes), device=said.device)
    logits = torch.zeros_like(out.logits).index_copy(1, columns, said.to(out.logits.dtype))
    out.logits = logits if training else among_seen(logits, classes)
    return out


def drawn(rows: int, width: int, state: State) -> Tensor:
    """[rows, width], uniform in +-sqrt(3 / width), as PILOT's linear layers start."""
    bound = (3 / width) ** 0.5
    return torch.empty(rows, width).uniform_(-bound, bound, generator=torch_generator(state.rng))


def grown(before: Mapping[str, Tensor], rows: int, width: int, state: State) -> tuple[nn.Parameter, nn.Parameter]:
    """(weight [rows, width], bias [rows]) of an answer by more features for more classes: what was known of both stays,
    the rest is drawn.
    """
    weight, bias = drawn(rows, width, state), torch.zeros(rows)
    if before:
        known = before["weight"]
        weight[: known.shape[0], : known.shape[1]] = known.to(weight)
        bias[: len(known)] = before["bias"].to(bias)
    return nn.Parameter(weight), nn.Parameter(bias)


def places_of(labels: Tensor, classes: Sequence[int], where: str) -> Tensor:
    """[R] each label's place among the classes. MethodError for a label that is none of them."""
    same = labels[:, None] == torch.tensor(list(classes), device=labels.device)
    if not bool(same.any(1).all()):
        raise MethodError(
            "there are rows of classes that no stage of this method has learnt",
            where="data.replay",
            remedy=f"take these rows out, or let the stage that they are of have '{where}'",
        )
    return same.int().argmax(1)


def auxiliary_targets(labels: Tensor, new: Sequence[int]) -> Tensor:
    """[R] 0 for a row of an older class, else 1 + its class's place among the new ones."""
    same = labels[:, None] == torch.tensor(list(new), device=labels.device)
    return torch.where(same.any(1), same.int().argmax(1) + 1, 0)


def aligned(weight: Tensor, new: Sequence[int]) -> Tensor:
    """[C, W] with the rows of new classes as long in the mean as those of older ones (Zhao et al. 2020)."""
    fresh = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    fresh[list(new)] = True
    lengths = weight.norm(dim=1)
    out = weight.clone()
    out[fresh] *= lengths[~fresh].mean() / lengths[fresh].mean()
    return out


class Expanded(nn.Module):
    """Answers by all extractors' features, of which the newest trains; `state.data["classes"]` are the classes."""

    def __init__(self, model: Any, state: State):
        super().__init__()
        self.model, self.config = model, model.config
        self._held = (state,)  # in a tuple: no part of the wrapper

    def forward(self, **inputs: Any) -> Any:
        (state,) = self._held
        if not state.data["classes"]:
            return self.model(**inputs)
        read = [read_as(self.model, kept(state, t), inputs) for t in range(state.data["task"])]
        own, out = own_features(self.model, inputs)
        if (now := context.told()) is not None:
            now.note(NEWEST, own)
        return placed(
            out, F.linear(torch.cat([*read, own], 1), *answer_of(state)), state.data["classes"], self.training
        )


def answer_of(state: State) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the answer: what trains, or what a finished stage left."""
    if "weight" in state._parameters:
        return state.get_parameter("weight"), state.get_parameter("bias")
    return state.get_buffer(f"{ANSWER}/weight"), state.get_buffer(f"{ANSWER}/bias")


class ExtractorMethod(RehearsalMethod):
    """Base of methods that train the model itself as the newest extractor, on each step's rows and as many kept ones.

    A subclass names itself and needs `row_labels`, `row_features` and `stage_rows`.
    """

    keep: ClassVar[Keep] = "herding"  # type: ignore[misc]
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "audio-classification")
    carries: ClassVar[Literal["fold", "frozen", "training", "drop"] | None] = "frozen"
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-4}
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 6}
    conformance_stages: ClassVar[int] = 2

    def step(self, inner: Any, step: int, state: State) -> None:
        buffer = self._buffer(state)
        inner.gradients(also=[buffer.row(slot) for slot in buffer.draw(len(inner.rows), step)])
        buffer.add(inner.rows)  # counts them: which are kept is chosen at the end

    def _answers_by(self, state: State, weight: Tensor, bias: Tensor) -> None:
        """Nothing trains any more, and this is the answer."""
        kept_ones = weight.detach().clone(), bias.detach().clone()
        for name in list(state._parameters):
            del state._parameters[name]
        for name, tensor in zip(("weight", "bias"), kept_ones, strict=True):
            state.set_buffer(f"{ANSWER}.{name}", tensor)


class ExpandingMethod(ExtractorMethod):
    """Base of methods that give each task an extractor of its own: `_kept` says which parameters that is."""

    aux_weight: NonNegativeFloat = Field(
        1.0, description="weight of the loss by which the newest features tell the task's classes apart, and from older"
    )
    weight_align: bool = Field(
        False, description="whether a task's end brings its classes' weights to the length of older ones"
    )

    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, EXTRACTORS, ANSWER, "classes", "task")

    def _kept(self, model: nn.Module, structure: Structure, names: Sequence[str]) -> tuple[str, ...]:
        """Those of a model's parameters that are each task's own."""
        raise NotImplementedError

    def setup(self, run: Setup) -> State:
        state, before = State(classes=[], new=[], task=0), run.earlier.inherited(self._name)
        self._buffer(state).begin(run, before)
        state.data |= {EXTRACTORS: {}, ANSWER: {}}
        model, structure = run.adapted.model, run.structure
        mine = self._kept(model, structure, list(run.adapted.base_parameters()))
        if before is None:
            return state
        state.data |= {"classes": list(before.values["classes"]), "task": before.values["task"] + 1}
        for of in (EXTRACTORS, ANSWER):
            for name, tensor in before.values[of].items():
                state.set_buffer(f"{of}.{name}", tensor)
        there = run.adapted.base_parameters()
        for name in mine:
            state.set_buffer(f"{EXTRACTORS}.{before.values['task']}.{name}", there[name].detach().clone())
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return Expanded(model, state)

    def begin_task(self, adapted: Any, needs: Any, state: State) -> None:
        new, known = needs.row_labels, state.data["classes"]
        state.data |= {"new": new, "classes": [*known, *(c for c in new if c not in known)]}
        width, task = classifier_head(adapted.model).in_features, state.data["task"]
        before = {n: state.get_buffer(f"{ANSWER}/{n}") for n in ("weight", "bias")} if task else {}
        weight, bias = grown(before, len(state.data["classes"]), width * (task + 1), state)
        state.register_parameter("weight", weight)
        state.register_parameter("bias", bias)
        if task:
            state.register_parameter("auxiliary", nn.Parameter(drawn(len(new) + 1, width, state)))
            state.register_parameter("auxiliary_bias", nn.Parameter(torch.zeros(len(new) + 1)))

    def choose(self, candidates: Candidates, state: State) -> Choice:
        """The newest extractor; in the first task all of the model that makes features."""
        no_deltas(candidates, self._name)
        names, model = list(candidates.base), candidates.adapted.model
        return Choice(
            self._kept(model, candidates.structure, names) if state.data["task"] else extractor_names(model, names)
        )

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        classes = state.data["classes"]
        said = outputs.logits[:, torch.tensor(classes, device=outputs.logits.device)].float()
        loss = F.cross_entropy(said, places_of(batch.labels, classes, self._name), reduction="none")
        if not state.data["task"]:
            return Loss(loss)
        newest = outputs.present.notes[NEWEST][-1]
        told = F.linear(newest, state.get_parameter("auxiliary"), state.get_parameter("auxiliary_bias"))
        apart = F.cross_entropy(told, auxiliary_targets(batch.labels, state.data["new"]), reduction="none")
        return Loss(loss + self.aux_weight * apart, logs={"auxiliary": apart})

    def end_task(self, adapted: Any, needs: Any, state: State) -> None:
        weight, bias = answer_of(state)
        new = [i for i, c in enumerate(state.data["classes"]) if c in state.data["new"]]
        if self.weight_align and len(new) < len(weight):
            weight = aligned(weight.detach(), new)
        self._answers_by(state, weight, bias)
        features, labels = all_features(adapted.model, state, needs.row_features)
        self._buffer(state).herd(needs.stage_rows, features, labels)


def no_deltas(candidates: Candidates, method: str) -> None:
    """MethodError where deltas train: they would move earlier extractors too."""
    if candidates.deltas:
        raise MethodError(
            f"'{method}' trains the model's own parameters, and deltas beside it would change what earlier tasks read",
            where="methods",
            remedy="take the method that adds them out",
        )


def all_features(model: nn.Module, state: State, read: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """([N, T D] features by all extractors, [N] classes) of a stage's rows; `read` is the need `row_features`."""
    found = []
    for t in range(state.data["task"]):
        with lent(model, kept(state, t)):
            found.append(read()[0])
    own, labels = read()
    return torch.cat([*found, own], 1), labels
