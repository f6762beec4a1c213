"""MEMO: tasks share the model's first blocks, and each has its own copy of the last ones (Zhou et al. 2022,
arXiv:2205.13218; papers: memo).

    f_t(x) = s_t(g(x)),  g: the shared blocks, which train in the first task alone;  s_t: the last `blocks` blocks and
    what stands behind them up to the head's last layer; s_t starts as s_(t-1) ended, s_1 as the base
    answer, auxiliary loss, kept rows: those of `der-expandable`

A later task trains s_t alone, with an answer by the features of all s_1 .. s_t. What is kept of an earlier task is
s_i, so that the memory of an extractor of the whole model buys kept rows instead. Each task is a stage that starts from
the one before with `carry: frozen`; left by name: `extractors` (the s_i), `answer`, `classes`, `task`, and the rows.
The change does not fold. MethodError for a model with fewer blocks than are to be copied, where deltas train
beside it, and for a class that no stage of it has learnt.

Defaults: the last block of a transformer and the norm behind it (PILOT's for ViT), aux_weight 1; 500 rows (PILOT:
2,000); the rate is ours. Source: the paper, sun-hailong/LAMDA-PILOT (models/memo.py,
backbone/vit_memo.py, exps/memo.json: train_base and train_adaptive false).
Differs from the paper in: g is read anew for each s_i (the same numbers; a row costs as many forwards as tasks); kept
rows are drawn beside each step's (there: mixed into the epoch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.models.sites import Structure
from tunewright.pieces.extractors import ExpandingMethod, extractor_names

NAME = "memo"


class MEMO(ExpandingMethod):
    """Shared first blocks, and a copy of the last ones for each task; all copies' features answer together."""

    blocks: PositiveInt = Field(1, description="blocks at the model's end that each task has of its own")

    papers: ClassVar[tuple[str, ...]] = (NAME,)
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(), RowFeatures(), StageRows())

    def _kept(self, model: nn.Module, structure: Structure, names: Sequence[str]) -> tuple[str, ...]:
        blocks = structure.blocks
        if len(blocks) < self.blocks:
            raise MethodError(
                f"the last {self.blocks} blocks are to be each task's own, and the model has {len(blocks)}",
                where=f"'{NAME}', blocks",
                remedy="write fewer" if blocks else "use `der-expandable`, which copies the whole model",
            )
        own = {n for block in blocks[-self.blocks :] for n in block.parameter_names}
        first = next(i for i, n in enumerate(names) if n in own)
        return extractor_names(model, names[first:])
