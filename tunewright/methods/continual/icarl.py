"""iCaRL: a network that learns from new rows and kept ones, and a classifier by the nearest mean of those that are kept
(Rebuffi et al. 2016, arXiv:1611.07725; papers: icarl).

    loss of a row   = sum over classes c of the stage of BCE(sigma(z_c), 1 where c is the row's, else 0)
                      + sum over classes c of earlier stages of BCE(sigma(z_c), sigma(z_c of the model as it began))
    kept            = `buffer_size` // classes rows of each class, chosen by herding when its stage ends: their running
                      mean stays nearest the class's mean feature; of older classes those chosen first stay
    an answer       = the class c whose mean m_c is nearest phi(x): phi the features that the head reads, of length 1;
                      m_c the mean of phi over c's kept rows, by the network as it is now, brought to length 1

Each step trains on its rows and on `minibatch_size` kept ones. What adapts the model stands beside it (`full`, `lora`);
each task is a stage that starts from the one before with `carry: frozen`, or `training` to go on with its deltas. While
a stage trains, the head answers. Logits are those of softmax(scale cos(phi(x), m_c)) over the classes so far.

Kept rows go on into later stages (pieces/rehearsal.py) and are counted under "Rehearsal buffer" in a report; `means`
and `classes` are left beside them. The change does not fold, since no head says what the means say.

Defaults: 500 rows (the paper: 2,000); as many kept rows a step as it has rows; scale 10 is ours (the paper reads
accuracies). Source: the paper's algorithms 1 to 5, sun-hailong/LAMDA-PILOT (models/icarl.py, models/base.py).
Differs from the paper in: kept rows are drawn beside each step's (there: mixed into the epoch); old answers are
computed at each step (there: once, before training). PILOT's code has softmax cross-entropies in the place of the
paper's sigmoids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Needs, Setup, State
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import ADAPTED, FeatureAnswers
from tunewright.pieces.prototypes import class_means, cosine_logits
from tunewright.pieces.rehearsal import LEAVES, Keep, RehearsalMethod
from tunewright.training.inner import Inner

NAME = "icarl"


def told_apart(logits: Tensor, labels: Tensor, new: Sequence[int], old: Sequence[int], before: Tensor | None) -> Tensor:
    """[R] sum over classes of binary cross-entropies of logits [R, V]: of `new` classes with the labels [R], of `old`
    ones with the answers of logits `before` [R, V].
    """
    wanted = F.one_hot(labels, logits.shape[1])[:, list(new)].float()
    said = logits[:, [*new, *old]].float()
    if before is not None:
        wanted = torch.cat([wanted, before[:, list(old)].float().sigmoid()], 1)
    return F.binary_cross_entropy_with_logits(said, wanted, reduction="none").sum(-1)


class ICaRL(RehearsalMethod):
    """Keep rows near their class's mean, distil old answers on them and on new rows, answer by the nearest mean."""

    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )
    scale: PositiveFloat = Field(10.0, description="what cosines with the means are multiplied by", examples=[1.0])

    keep: ClassVar[Keep] = "herding"  # type: ignore[misc]
    reference: ClassVar[str] = "start"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "audio-classification")
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, "means", "classes")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 6}
    conformance_beside: ClassVar[dict[str, dict[str, object]]] = {"full": {}}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(), RowFeatures(), StageRows())

    def setup(self, run: Setup) -> State:
        state, before = State(), run.earlier.inherited(NAME)
        self._buffer(state).begin(run, before)
        state.data |= {"old": list(before.values["classes"]) if before else [], "classes": [], "branches": [ADAPTED]}
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        def answer(features: Tensor) -> Tensor:
            return self.scale * cosine_logits(features, state.get_buffer("means"))

        return FeatureAnswers(model, structure, state, answer)

    def begin_task(self, needs: Needs, state: State) -> None:
        new = needs.row_labels
        state.data |= {"new": new, "old": [c for c in state.data["old"] if c not in new]}

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer = self._buffer(state)
        drawn = buffer.draw(self.minibatch_size or len(inner.rows), step)
        inner.gradients(also=[buffer.row(slot) for slot in drawn])
        buffer.add(inner.rows)  # counts them: which are kept is chosen at the end

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], state: State) -> Loss:
        new, old = state.data["new"], state.data["old"]
        before = forward(batch, start=True, grad=False).logits if old else None
        return Loss(told_apart(outputs.logits, batch.labels, new, old, before))

    def end_task(self, needs: Needs, state: State) -> None:
        buffer = self._buffer(state)
        features, classes = needs.row_features()
        buffer.herd(needs.stage_rows, features, classes)
        features, classes = needs.row_features([buffer.row(slot) for slot in range(len(buffer))])
        means = class_means(F.normalize(features, dim=-1), classes)
        state.set_buffer("means", torch.stack(list(means.values())))
        state.data["classes"] = list(means)
