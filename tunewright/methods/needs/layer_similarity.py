"""layer_similarity: how alike the base and the present model see rows, layer by layer."""

from __future__ import annotations

import random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.pieces.means import mask_over, token_means


class LayerSimilarity(Need):
    """[L + 1] representational similarity of each hidden state, embeddings first: 1 where base and tuned see alike.

    Of each: mean over a row's real tokens, length 1, cosines of all pairs of rows (each with itself too), and the
    Pearson correlation of these numbers of the base with those of the model as the stage ended.
    """

    name: ClassVar[str] = "layer_similarity"
    when: ClassVar[Literal["once", "prepare", "batch", "redraw", "end"]] = "end"
    source: str = Field("train", description="rows to read")
    rows: PositiveInt = Field(64, description="how many")

    def check(self, run: Any) -> None:
        run.source(self.source)

    def compute(self, run: Any, batch: Batch | None = None) -> Tensor:
        rows = run.source(self.source)
        picked = random.Random(f"{run.seed}/{self.name}/{self.source}").sample(rows, min(self.rows, len(rows)))

        def read(model: nn.Module) -> list[Tensor]:
            parts: list[list[Tensor]] = []
            for i in range(0, len(picked), 16):
                made = run.task.collate(picked[i : i + 16], False, seed=run.seed).to(run.device)
                hidden = run.task.forward(model, made, hidden=True).hidden
                parts.append([row_states(h, made.inputs.get("attention_mask")) for h in hidden])
            return [torch.cat(layer) for layer in zip(*parts, strict=True)]

        with run.adapted.evaluating(), torch.no_grad():
            tuned = read(run.adapted.model)
            with run.adapted.base() as model:
                base = read(model)
        return torch.stack([alike(a, b) for a, b in zip(base, tuned, strict=True)])


def row_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """[R, D] of states [R, L, D], or of pictures' [R, D, H, W]: the mean over real tokens."""
    states = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
    return (states.mean(1) if mask is None else token_means(states, mask_over(states, mask))).float()


def alike(a: Tensor, b: Tensor) -> Tensor:
    """[] correlation of the cosines of all pairs of rows in a [R, D] with those in b. Where either tells no two rows
    apart there is none: 1 of equal cosines, else 0.
    """
    upper = torch.triu_indices(len(a), len(a))
    grams = []
    for states in (a, b):
        unit = nn.functional.normalize(states.double(), dim=-1)
        grams.append((unit @ unit.T)[upper[0], upper[1]])
    if any(float((gram - gram[0]).abs().max()) < 1e-12 for gram in grams):
        return torch.tensor(float(torch.allclose(grams[0], grams[1])))
    return torch.corrcoef(torch.stack(grams))[0, 1].float()
