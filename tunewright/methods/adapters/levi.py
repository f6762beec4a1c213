"""LEVI: each layer of a frozen model is read together with a small model that starts at random, so that neither's
shortcuts rule (Roh et al. 2024, arXiv:2402.04644; papers: levi).

h_l [D] is the mean over a row's real tokens of the frozen model's states at tap l, g [d] that of the small model's last
states, which reads the same inputs; n() is layer norm without weights:

    f_l = U_l relu(D_l [n(h_l); n(g)] + b_l) + c_l       D_l [a, D + d], U_l [D, a]: the adapting layer of tap l
    z_l = head(f_l);   loss = mean over l of cross-entropy(z_l);   answer = mean over l of z_l = head(mean f_l)

Small model, adapting layers and the head learn together; no gradient reaches the frozen model, of which nothing is kept
for the backward pass. The small model is of the frozen one's class: `blocks` blocks of D / r, drawn afresh, with
embeddings of its own; it is trained with the dropout of the config, while the frozen one has none.

Defaults: two blocks of a quarter of the width, all blocks' outputs as taps, a = 64; the rate is LoRA's here. The model
does not start as the base, and the change does not fold.
Raises MethodError for taps that the model does not have, and for a model whose config does not say its width.
Differs from the paper in: what its abstract and summaries leave open is ours: which states the small model gives
(its last, for all taps), means over tokens, the norms, the adapting layers' form, one head for all taps, and equal
weights of their losses; no LoRA in the frozen model.
No code of the authors was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn.functional import cross_entropy

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError
from tunewright.pieces.heads import classifier_head, classifier_head_name, pooled_head
from tunewright.pieces.seeded import seeded_start
from tunewright.pieces.two_views import NOTE, TwoViews, Views, small_model

NAME = "levi"


class LEVI(Method):
    """A frozen model's layers, each read beside a small model that starts at random."""

    blocks: PositiveInt = Field(2, description="blocks of the small model", examples=[1])
    reduction: PositiveInt = Field(4, description="r: the small model is D / r wide", examples=[2])
    width: PositiveInt = Field(64, description="a, inner width of an adapting layer", examples=[8])
    layers: tuple[int, ...] | None = Field(
        None,
        description="numbers of the layers that are read (0: embeddings); none: every block's output",
        examples=[[2]],
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"width": 16}

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        with seeded_start(run.rng):
            small = small_model(model, self.blocks, self.reduction, f"{NAME}.reduction")
            last = int(model.config.num_hidden_layers)
            taps = sorted(set(self.layers if self.layers is not None else range(1, last + 1)))
            if not taps or not 0 <= taps[0] <= taps[-1] <= last:
                raise MethodError(
                    f"a model of {last} layers has no layers {taps}",
                    where=f"{NAME}.layers",
                    remedy=f"write numbers from 0 to {last}",
                )
            state = State(taps=taps)
            state.side = Views(small, len(taps), int(model.config.hidden_size), self.width)
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        side: Any = state.side
        return TwoViews(model, side.to(next(model.parameters()).device), state.data["taps"], classifier_head(model))

    def choose(self, candidates: Candidates) -> Choice:
        name = classifier_head_name(candidates.adapted.model)
        return Choice(tuple(n for n in candidates.base if n.startswith(name + ".")))

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        head = pooled_head(outputs)
        (features,) = outputs.present.notes[NOTE]
        each = torch.stack([cross_entropy(head(f).float(), batch.labels, reduction="none") for f in features])
        return Loss(each.mean(0))
