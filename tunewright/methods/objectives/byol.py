"""BYOL: from one view of a picture, say what a slowly moving copy of the model says of the other (Grill et al. 2020,
arXiv:2006.07733).

With h_a, h_b [R, D] of two views by the model, and h'_a, h'_b by its target, a moving average of what trains,

    loss = mean over both orders of  2 - 2 cos(q(g(h_a)), g'(h'_b))                          a picture

where g and q are small heads (projector and predictor) and g' is the average of g. After every step

    theta' <- decay theta' + (1 - decay) theta,    the target beginning as the model itself

The target gives no gradient. There are no negatives, so that a step may hold any number of pictures; what keeps all
vectors from becoming one is the predictor and the target's slowness. The heads and the target are not kept.

Defaults: decay 0.99 (table 5a: as good as the paper's 0.996 over fewer steps); heads of 512 and 128 (ours; there 4,096
and 256).
Differs from the paper in: layer normalisation inside the heads in the place of batch normalisation, so that a step does
not hang on how it is split; the decay is constant; views without blur and hue (`tasks/_views.py`); AdamW.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cosine_similarity

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Needs, Setup
from tunewright.contract.state import COPY, State
from tunewright.methods.needs.embedding_width import EmbeddingWidth
from tunewright.pieces.contrast import both_views
from tunewright.pieces.seeded import seeded_start

TARGET = "target."
"""What begins the names of the buffers that hold the target's projector."""


class BYOL(Method):
    """Agree, behind a predictor, with a slow copy of oneself that sees another view of the picture."""

    decay: float = Field(0.99, ge=0, lt=1, description="share of itself that the target keeps a step", examples=[0.5])
    hidden: PositiveInt = Field(512, description="width inside the heads", examples=[16])
    out: PositiveInt = Field(128, description="numbers that the heads give a view", examples=[8])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    tasks: ClassVar[tuple[str, ...] | None] = ("image-feature-extraction",)

    def needs(self) -> Sequence[Need]:
        return (EmbeddingWidth(),)

    def setup(self, run: Setup) -> State:
        state: Any = State()
        state.projector, state.predictor = nn.Sequential(), nn.Sequential()
        return state

    def begin_task(self, needs: Needs, state: Any, rng: random.Random) -> None:
        if len(state.projector):
            return
        with seeded_start(rng):
            for head, width in ((state.projector, needs.embedding_width), (state.predictor, self.out)):
                inside = self.hidden
                head.extend([nn.Linear(width, inside), nn.LayerNorm(inside), nn.ReLU(), nn.Linear(inside, self.out)])

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], state: Any) -> Loss:
        views = both_views(outputs, batch)
        said = state.predictor(state.projector(views.float())).unflatten(0, (-1, 2))
        theirs: Any = forward(batch, weights=state.copies(), grad=False).embeddings
        with torch.no_grad():
            aim = _projected(state, theirs.float()).unflatten(0, (-1, 2))
        return Loss(2 - 2 * cosine_similarity(said, aim.flip(1), dim=-1).mean(1))

    def after_step(self, parameters: Mapping[str, Tensor], state: Any) -> None:
        before = state.copies()
        for name, value in parameters.items():
            state.set_buffer(COPY + name, _nearer(before.get(name), value, self.decay))
        for name, value in state.projector.named_parameters():
            state.set_buffer(TARGET + name, _nearer(state.get(TARGET + name), value, self.decay))


def _nearer(before: Tensor | None, value: Tensor, decay: float) -> Tensor:
    """The average after one more step; the value itself where there is none yet."""
    return value.detach().clone() if before is None else before.lerp(value.detach(), 1 - decay)


def _projected(state: Any, vectors: Tensor) -> Tensor:
    """[N, out] by the target's projector, which is the present one before the first step."""
    held = {n: p if (own := state.get(TARGET + n)) is None else own for n, p in state.projector.named_parameters()}
    given: Tensor = functional_call(state.projector, held, (vectors,))
    return given
