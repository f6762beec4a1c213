"""UniPT: a light network beside a frozen model that re-reads its layers, guided by the last one (papers: unipt).

The backbone runs once without gradient. Each layer's states H_l [T, D] (embeddings first) become Z_l = LN(H_l W_l) [T,
D/r]; the last, Z_L, is the anchor. Each other layer is read through its similarity to the anchor, S_l = L1row(ReLU(Z_L
Z_l^T)) + I over real tokens, M_l = S_l Z_l; layers are weighed by alpha = softmax_l(w . (mean Z_L * mean Z_l)); the
output U ReLU(Z_L + LN(P sum_l alpha_l M_l)) [T, D] takes the place of the backbone's features. Nothing of the backbone
is kept for the backward pass but the states that the side network reads.

The classification head reads the mean of the output over real tokens, and trains with the side network. Since the
output replaces features the model does not start as the base. The backbone runs in evaluation mode (the authors leave
its dropout on). w starts uniform in +-1/sqrt(k), k = D/r, as the linear gate of their code does; its bias, the same for
every layer, is left out. Not done: several towers, as in retrieval, and features pooled in a learned way, as VSE-infty
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError
from tunewright.pieces.beside import Beside
from tunewright.pieces.heads import classifier_head, classifier_head_name
from tunewright.pieces.means import token_means
from tunewright.pieces.seeded import seeded_start


def read_layer(anchor: Tensor, layer: Tensor, mask: Tensor) -> Tensor:
    """M_l [R, T, k]: a layer's states, and beside them those similar to the anchor's.

    `mask` [R, T] is 1 at real tokens.
    """
    similar = torch.relu(anchor @ layer.transpose(1, 2)) * mask[:, None, :]
    return F.normalize(similar, p=1.0, dim=-1, eps=1e-8) @ layer + layer


def layer_weights(anchor: Tensor, layers: Sequence[Tensor], w: Tensor, mask: Tensor) -> Tensor:
    """alpha [R, L], which sums to 1 over layers: how well each layer's mean agrees with the anchor's, under w [k]."""
    means = [token_means(z, mask) for z in layers]
    return torch.softmax(torch.stack([(token_means(anchor, mask) * m) @ w for m in means], dim=1), dim=1)


class Side(nn.Module):
    """The network beside: hidden states of the tapped layers, the last one last, to features [R, T, D]."""

    def __init__(self, width: int, layers: int, reduction: int):
        super().__init__()
        k = width // reduction
        self.down = nn.ModuleList(nn.Sequential(nn.Linear(width, k), nn.LayerNorm(k)) for _ in range(layers))
        self.mix, self.norm, self.up = nn.Linear(k, k), nn.LayerNorm(k), nn.Linear(k, width)
        self.w = nn.Parameter(torch.empty(k).uniform_(-(k**-0.5), k**-0.5))

    def forward(self, hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
        *layers, anchor = (down(h) for down, h in zip(self.down, hidden, strict=True))
        alpha = layer_weights(anchor, layers, self.w, mask)
        read = sum(
            (alpha[:, i, None, None] * read_layer(anchor, z, mask) for i, z in enumerate(layers)),
            torch.zeros_like(anchor),
        )
        out: Tensor = self.up(torch.relu(anchor + self.norm(self.mix(read))))
        return out


class UniPT(Method):
    """A side network over a frozen backbone."""

    reduction: PositiveInt = Field(
        2, description="r: the side network is D / r wide, where D is the size of the model's states"
    )
    layers: tuple[int, ...] | None = Field(
        None, description="numbers of the layers that are read (0: embeddings); none: all but the last", examples=[[1]]
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    papers: ClassVar[tuple[str, ...]] = ("unipt",)

    def setup(self, run: Setup) -> State:
        config: Any = run.adapted.model.config
        if not hasattr(config, "hidden_size"):
            raise MethodError(
                f"{type(run.adapted.model).__name__} has no states of one size, [B, L, D], for the side network",
                where="model",
                remedy="use an encoder of transformer blocks, or lora here",
            )
        last = config.num_hidden_layers
        read = sorted(set(self.layers if self.layers is not None else range(last)))
        if not read or not 0 <= read[0] <= read[-1] < last or self.reduction > config.hidden_size:
            raise MethodError(
                f"a model of {last} layers has no layers {read} below the last",
                where="layers",
                remedy=f"write numbers from 0 to {last - 1}",
            )
        state = State(taps=[*read, last])
        with seeded_start(run.rng):
            state.side = Side(config.hidden_size, len(read) + 1, self.reduction)
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        side: Any = state.side
        return Beside(model, side.to(next(model.parameters()).device), state.data["taps"], classifier_head(model))

    def choose(self, candidates: Candidates) -> Choice:
        name = classifier_head_name(candidates.adapted.model)
        return Choice(tuple(n for n in candidates.base if n.startswith(name + ".")))
