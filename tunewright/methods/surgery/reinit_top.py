"""Begin the upper blocks afresh: the last n blocks, and a pooler, get the values that the model's class draws.

One of the ways to steady fine-tuning on few rows that Tinn et al. 2021 compare (arXiv:2112.07869; papers:
biomedical-stability): they find it best for similarity of texts with very few rows. What pre-training made of the last
blocks is for its own task; drawn again they are quicker to leave it.

The values are those of a model of the same class and config, drawn by the stage's own generator: linear layers from
N(0, initializer_range^2), biases 0, norms as they begin. They are the first part of the change and not of the base, so
that strength 0 is the untouched base. Heads and tied embeddings are left as they are. Norms behind the last block too.

Each stage that names it begins its upper blocks again. MethodError where the model has fewer blocks, or is none of
transformers'. A second model of the same size is held while the values are drawn.

Defaults: 1 block (the abstract speaks of the top layer).
Differs from the paper in: how many blocks the authors tried was not read.
"""

from __future__ import annotations

import random
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from transformers import PreTrainedModel

from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models import generators
from tunewright.models.adapted import Adapted
from tunewright.models.drawer import Drawer


class ReinitTop(Method):
    """Draw the last blocks again before training."""

    blocks: PositiveInt = Field(1, description="blocks that begin afresh, from the output", examples=[2])

    quantised: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("biomedical-stability",)

    def setup(self, run: Setup) -> State:
        count = len(run.structure.blocks)
        if not isinstance(run.adapted.model, PreTrainedModel) or isinstance(run.adapted.model, Drawer):
            raise MethodError(
                "the class that draws this model's weights is not known",
                where="reinit-top",
                remedy="use a model of transformers",
            )
        if self.blocks > count:
            raise MethodError(
                f"{self.blocks} blocks are to begin afresh, and the model has {count}",
                where="reinit-top.blocks",
                remedy=f"write a number up to {count}",
            )
        return State()

    def begin_task(self, adapted: Adapted, rng: random.Random) -> None:
        model = adapted.model
        top = [n for block in adapted.structure.blocks[-self.blocks :] for n in block.parameter_names]
        names = {*top, *(n for n in adapted.base_parameters() if ".pooler." in f".{n}")}
        with generators.seeded(rng.getrandbits(31)):
            drawn = dict(type(model)(model.config).named_parameters())
        with torch.no_grad():
            for name in sorted(names):
                adapted.remember(name)
                adapted.base_parameters()[name].copy_(drawn[name])
