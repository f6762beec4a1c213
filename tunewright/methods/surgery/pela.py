"""PELA: linear layers become the product of two thin ones, which first learn to do what the original does (Guo et al.
2023, arXiv:2310.10700).

Before training every linear layer inside the blocks, W [out, in] with at least 10 outputs, is factored by its singular
values, shared evenly (`models/factored.py`):

    W ~ R L,  L = sqrt(S) V^T [k, in],  R = U sqrt(S) [out, k],  k = floor(in out / (ratio (in + out)))

so that at most 1/ratio of its parameters are left. The small model then trains whole (or the deltas of a method beside
this one), against the frozen original's features and near its weights:

    loss = task's loss + distillation * mean over blocks of mean_d (s_d - t_d)^2
         + perturbation * mean over layers of (max |R L - W| - bound)^2

s and t are what the blocks put out, here and in the untouched base, on the same rows in evaluation mode there: at each
place that predicts a target, or the mean over a row's tokens where a row has one target. The penalty's gradient reaches
one entry of each layer, as in the authors' code. A second stage (`full`, `lora`) on top of it is the fine-tuning.

What is exported is the product R L in the base's own shape, which transformers loads: the thin layers live in the run's
own files alone. Raises MethodError where no plain linear layer is found.

Differs from the paper in: fused and stacked layers, heads and embeddings stay whole; the distillation is asked for at
the targets' places (there: all tokens); the original runs once a step. Defaults: ratio 2, weights 1 and bound 0 (the
authors' for DeiT and Swin; their DeiT script leaves the penalty at 0).
Source: guoyang9/PELA, DeiT/low_rank.py, DeiT/engine.py, Swin/main.py as noted. Not seen: the paper's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.hidden_states import HiddenStates
from tunewright.models.factored import Factored
from tunewright.models.sites import Structure
from tunewright.pieces.features import states_at

FEWEST = 10
"""Outputs below which the authors leave a layer whole."""


def rank_for(out: int, inputs: int, ratio: float) -> int:
    """The largest rank whose two factors hold at most 1/ratio of a layer's parameters."""
    return int(inputs * out / (ratio * (inputs + out)))


def deviation(products: Sequence[Tensor], weights: Sequence[Tensor], bound: float) -> Tensor:
    """[]: the mean over layers of (largest |R L - W| - bound)^2."""
    gaps = [(p - w).abs().max() for p, w in zip(products, weights, strict=True)]
    return (torch.stack(gaps) - bound).square().mean()


class Pela(Method):
    """Low-rank factors in the place of linear layers, taught by the original."""

    ratio: float = Field(
        2.0, gt=1, description="how many times fewer parameters a layer keeps, at least", examples=[3.0]
    )
    distillation: NonNegativeFloat = Field(1.0, description="weight of the squared gap of features", examples=[0.0])
    perturbation: NonNegativeFloat = Field(1.0, description="weight of the largest gaps of weights", examples=[30.0])
    bound: NonNegativeFloat = Field(0.0, description="gap of weights that costs nothing", examples=[0.1])

    papers: ClassVar[tuple[str, ...]] = ("pela",)
    identity: ClassVar[bool] = False
    reshapes: ClassVar[bool] = True
    quantised: ClassVar[bool] = False

    def needs(self) -> Sequence[Need]:
        return (HiddenStates(),)

    def prepare(self, structure: Structure) -> Factored:
        sites = [s for s in structure.linear_sites() if type(s.module) is nn.Linear and s.out_features >= FEWEST]
        ranks = {s.name: rank_for(s.out_features, s.in_features, self.ratio) for s in sites}
        if not (ranks := {n: k for n, k in ranks.items() if k}):
            raise MethodError(
                "'pela' finds no plain linear layer in the blocks that could be factored",
                remedy="write a smaller ratio, or use a model whose blocks hold linear layers",
            )
        return Factored(ranks)

    def setup(self, run: Setup) -> State:
        state: Any = State()
        done = next((o for o in reversed(run.adapted.operated) if isinstance(o.surgery, Factored)), None)
        # modules of the model, not of the state: a plain list keeps them out of what it saves and trains
        state.layers = (
            []
            if done is None
            else [
                (run.adapted.model.get_submodule(n), done.body.get_submodule(n))
                for n in done.surgery.settings()["ranks"]
            ]
        )
        return state

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs]) -> Loss:
        task = -outputs.log_probs()
        if not self.distillation:
            return Loss(task)
        with torch.no_grad():
            taught = forward(batch, base=True, hidden=True).hidden
        assert outputs.hidden is not None and taught is not None
        gaps = tuple((s.float() - t.float()).square() for s, t in zip(outputs.hidden, taught, strict=True))
        seen = Outputs(lambda: outputs.logits, outputs.labels, hidden=gaps)
        gap = torch.stack([states_at(seen, batch, i).mean(-1) for i in range(1, len(gaps))]).mean(0)
        return Loss(task + self.distillation * gap, logs={"feature_gap": gap.detach()})

    def penalty(self, weights: Mapping[str, Any], state: Any) -> Tensor:
        products = [f.expand.weight.float() @ f.reduce.weight.float() for f, _ in state.layers]
        return self.perturbation * deviation(products, [w.weight.float() for _, w in state.layers], self.bound)
