"""Copies of a block's feed-forward part beside it, of which a row's task uses some: the mean of their outputs and its.

    y <- (y + sum over i in S of E_i(h)) / (1 + |S|)          E_i(h) = W2 (f(W1 h + b1) [* (W3 h + b3)]) + b2

h is what enters the part, y what it gives, S the skills of the task that a row is of. A skill that no row of a forward
uses is not computed and has no gradient. The form hangs on the part's last layer, a `Tap` of its name on its first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from tunewright.models.bottlenecks import Homed
from tunewright.models.context import present
from tunewright.models.sites import Site

Layer = tuple[Tensor, Tensor | None]
"""A layer's weight [out, in] and bias [out]."""


class Copy(nn.Module):
    """A feed-forward part of two layers, or of three where the second one's output multiplies the first one's."""

    def __init__(self, layers: Sequence[Layer], activation: str):
        super().__init__()
        self.weights = nn.ParameterList([w.clone() for w, _ in layers])
        self.biases = nn.ParameterDict({f"{i}": b.clone() for i, (_, b) in enumerate(layers) if b is not None})
        self.activation: Any = ACT2FN[activation]

    def _layer(self, i: int, h: Tensor) -> Tensor:
        return linear(h, self.weights[i], self.biases[f"{i}"] if f"{i}" in self.biases else None)

    def forward(self, h: Tensor) -> Tensor:
        """E(h) [.., out] of h [.., d]."""
        inner = self.activation(self._layer(0, h))
        if len(self.weights) == 3:
            inner = inner * self._layer(1, h)
        return self._layer(len(self.weights) - 1, inner)


class Skills(Homed):
    """The mean of a feed-forward part and of those of its copies that a row's task uses.

    `tasks`: source of rows -> names of its skills; `others`: the task of rows of other sources (none: they use none).
    """

    form = "skills"
    reads_rows: ClassVar[bool] = True

    def __init__(
        self,
        module: nn.Module,
        skills: Mapping[str, Sequence[Layer]],
        tasks: Mapping[str, Sequence[str]],
        *,
        activation: str,
        source: str,
        others: str | None = None,
    ):
        super().__init__(module)
        self.names, self.tasks = tuple(skills), {t: tuple(s) for t, s in tasks.items()}
        self.activation, self.source, self.others = activation, source, others
        self.copies = nn.ModuleList(Copy(layers, activation) for layers in skills.values())

    def used(self, source: str) -> tuple[str, ...]:
        """The skills of rows of a source, beside the part itself."""
        return self.tasks.get(source, self.tasks.get(self.others or "", ()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h, now = self._read(), present()
        row, place = now.at(y)
        known = now.rows.sources or ("",) * (int(row.max()) + 1)
        uses = torch.tensor([[n in self.used(s) for n in self.names] for s in known], device=y.device)
        here = uses[row] & (place >= 0)[..., None]  # [B, L, skills]
        count = here.sum(-1, keepdim=True).to(y.dtype)
        added = -count * y
        for i, copy in enumerate(self.copies):
            at = here[..., i].nonzero(as_tuple=True)
            if len(at[0]):
                own = copy(h[at].to(copy.weights[0].dtype))  # type: ignore[index,union-attr]
                added = added.index_put(at, own.to(y.dtype), accumulate=True)
        return y + self.strength * added / (1 + count)

    def layers(self, name: str) -> list[Layer]:
        """A skill's layers as they are now."""
        copy: Any = self.copies[self.names.index(name)]
        biases = [copy.biases[f"{i}"].detach() if f"{i}" in copy.biases else None for i in range(len(copy.weights))]
        return [(w.detach(), b) for w, b in zip(copy.weights, biases, strict=True)]

    def settings(self) -> dict[str, Any]:
        copy: Any = self.copies[0]
        shapes = [[list(w.shape), f"{i}" in copy.biases] for i, w in enumerate(copy.weights)]
        about = {"activation": self.activation, "source": self.source, "others": self.others}
        return {
            "names": list(self.names),
            "tasks": {t: list(s) for t, s in self.tasks.items()},
            "shapes": shapes,
            **about,
        }

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Skills:
        rest = dict(settings)
        shapes, names = rest.pop("shapes"), rest.pop("names")
        empty = [(torch.zeros(shape), torch.zeros(shape[0]) if biased else None) for shape, biased in shapes]
        return cls(site.module, dict.fromkeys(names, empty), rest.pop("tasks"), **rest)
