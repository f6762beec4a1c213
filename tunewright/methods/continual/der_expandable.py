"""Dynamically expandable representation: a feature extractor for each task, all of whose features answer together (Yan
et al. 2021, arXiv:2103.16788, there DER; papers: der-expandable).

    f_t starts as f_(t-1) ended, f_1 as the base;  f_1 .. f_(t-1) stay
    answer   softmax(W [f_1(x); ...; f_t(x)] + b),  W [C, t D]: what was known of older classes and features stays, the
             rest is drawn
    loss     cross-entropy + aux_weight x cross-entropy of V f_t(x) + v among "older" and the task's own classes,
             V [1 + classes of the task, D], thrown away when the task ends; the first task has none

Each step trains on its rows and on as many kept ones: `buffer_size` // classes of each class, those nearest the class's
mean in all features (herding), chosen when its task ends. `weight_align` brings the new classes' rows of W to the mean
length of older ones then.

What adapts the model is the method itself: all parameters but the head's last layer train, and nothing stands beside
it that would. Each task is a stage that starts from the one before with `carry: frozen`. Memory: the parameters of each
earlier extractor, whole; they are left to later stages as `extractors.<t>.<parameter>` with `answer`, `classes` and
`task`, and a report counts them among what is held. Cost: as many forwards of a row as tasks. The change does not fold.
MethodError where deltas train beside it, and for a class that no stage of it has learnt.

Defaults: aux_weight 1, no alignment (PILOT's, where it is commented out; PyCIL's is on); 500 rows (PILOT: 2,000); the
rate is ours. Source: the paper's section 3, sun-hailong/LAMDA-PILOT and G-U-N/PyCIL (models/der.py,
utils/inc_net.py).
Differs from the paper in: no masks and no pruning of channels, no second training of the answer on balanced rows (as
PILOT and PyCIL); kept rows are drawn beside each step's (there: mixed into the epoch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from tunewright.contract.method import Need
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.models.sites import Structure
from tunewright.pieces.extractors import ExpandingMethod, extractor_names

NAME = "der-expandable"


class ExpandableDER(ExpandingMethod):
    """A feature extractor for each task; all of their features answer together."""

    papers: ClassVar[tuple[str, ...]] = (NAME,)
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(), RowFeatures(), StageRows())

    def _kept(self, model: nn.Module, structure: Structure, names: Sequence[str]) -> tuple[str, ...]:
        return extractor_names(model, names)
