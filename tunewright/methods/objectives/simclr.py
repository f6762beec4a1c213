"""SimCLR: two views of a picture are near, those of others far, read through a head that is not kept (Chen et al. 2020,
arXiv:2002.05709).

With the vectors h [2R, D] of two views of each of the step's R pictures, and z = W2 relu(W1 h + b1) + b2,

    loss = NT-Xent(z), see `pieces/contrast.py`                                             nats a picture

The head lets h keep what the views do not share (section 4.2); it trains with the model and is dropped afterwards. The
negatives are those of the whole optimizer step, however it is split.

Defaults: temperature 0.1 (table 5), a head of one hidden layer as wide as h and 128 numbers out (section 2.1).
Differs from the paper in: no batch normalisation in the head; views without blur and hue (`tasks/_views.py`); AdamW.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.methods.needs.embedding_width import EmbeddingWidth
from tunewright.pieces.contrast import both_views, nt_xent
from tunewright.pieces.seeded import seeded_start


class SimCLR(Method):
    """Contrast two views of each picture with the step's others, behind a head that is dropped afterwards."""

    temperature: PositiveFloat = Field(0.1, description="what cosines are divided by", examples=[0.5])
    hidden: PositiveInt | None = Field(
        None, description="width inside the head; none: that of the pictures' vectors", examples=[16]
    )
    out: PositiveInt = Field(128, description="numbers that the head gives a view", examples=[8])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-feature-extraction",)

    def needs(self) -> Sequence[Need]:
        return (EmbeddingWidth(),)

    def setup(self, run: Setup) -> State:
        state: Any = State()
        state.head = nn.Sequential()
        return state

    def begin_task(self, needs: Needs, state: Any, rng: random.Random) -> None:
        if len(state.head):
            return
        width = needs.embedding_width
        inside = self.hidden or width
        with seeded_start(rng):
            state.head.extend([nn.Linear(width, inside), nn.ReLU(), nn.Linear(inside, self.out)])

    def objective(self, outputs: Outputs, batch: Batch, state: Any) -> Loss:
        views = both_views(outputs, batch)
        return Loss(nt_xent(state.head(views.float()), batch.fields["keys"], self.temperature))
