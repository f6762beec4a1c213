"""GPM: gradient projection memory, weights move on no direction that earlier tasks' inputs use (Saha et al. 2021,
arXiv:2103.09762; papers: gpm).

    step of W <- step of W (1 - M M^T);    M [in, k]: an orthonormal basis of earlier inputs of the layer

Each task, when it ends, adds to M as few directions as hold a share `threshold` of its inputs' squared length
(`pieces/input_subspaces.py`), read of `samples` rows. What the layer says of inputs in M stays as it was. M is left to
later stages, k x in numbers a layer, and no row is kept.

It is the optimizer's step that is projected, not the gradient: under SGD the same, with or without momentum, and under
AdamW, which divides each entry by a size of its own, only the step's projection keeps M out. From the second task on
what is no linear layer's weight (norms, biases, embeddings) does not move, unless `rest` is false; a new head trains
freely. Needs weights that train (`full`, `hft`, `lift` ...): a low-rank change lies in directions of its own, for which
`inflora` chooses them.

Defaults: threshold 0.97 (the authors' for CIFAR-100, raised by 0.003 a task). Source: the paper's equations 5 to 9,
sahagobinda/GPM. Differs from the paper in: the rest is held in later tasks (there layers have neither norm nor bias,
or they train in the first task alone); one head (there one a task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.input_covariance_at_end import InputCovarianceAtEnd
from tunewright.pieces.input_subspaces import keep_inputs, without
from tunewright.pieces.weight_importance import check_shape

NAME = "gpm"


class GPM(Method):
    """Take out of every step what would change the layers' answers to earlier tasks' inputs."""

    threshold: float = Field(
        0.97, gt=0, le=1, description="share of a task's inputs that the kept directions hold", examples=[0.3]
    )
    samples: PositiveInt = Field(256, description="rows from which inputs are read", examples=[1])
    rest: bool = Field(True, description="whether norms, biases and embeddings stay in later tasks")

    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = ("basis",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"threshold": 0.6, "samples": 4}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (InputCovarianceAtEnd(source="train", samples=self.samples),)

    def setup(self, run: Setup) -> State:
        before = run.earlier.inherited(NAME)
        sites = {s.weight_name: [s.name, s.kind] for s in run.structure.linear_sites()}
        state = State(basis={}, sites=sites, free=list(run.adapted.new), later=before is not None)
        for site, basis in (before.values["basis"] if before else {}).items():
            state.set_buffer(f"basis.{site}", basis)
        return state

    def update(
        self, changes: Mapping[str, Tensor], parameters: Mapping[str, Tensor], step: int, state: State
    ) -> dict[str, Tensor] | None:
        if not state.data["later"]:
            return None
        kept = {n: self._kept(n, change, state) for n, change in changes.items()}
        if not step and not any(n in state.data["sites"] for n in changes):
            raise MethodError(
                f"no weight trains, and '{NAME}' projects steps of weights",
                where=f"'{NAME}'",
                remedy="train weights (methods: [full]), or take inflora for low-rank changes",
            )
        return kept

    def _kept(self, name: str, change: Tensor, state: State) -> Tensor:
        """What stays of one parameter's step."""
        if name in state.data["free"]:
            return change
        site, kind = state.data["sites"].get(name, (None, None))
        basis = None if site is None else state.get(f"basis.{site}")
        if basis is None:
            return torch.zeros_like(change) if self.rest and site is None else change
        if change.dim() < 2:
            raise MethodError(
                f"some entries of '{name}' train, and '{NAME}' projects whole weights",
                where=f"'{NAME}'",
                remedy="take a method that trains whole weights, such as full",
            )
        matrix = change.t() if kind == "conv1d" else change.flatten(1)
        check_shape(basis.shape[:1], matrix.shape[1:], f"inputs of {name}", NAME)
        return (without(matrix, basis).t() if kind == "conv1d" else without(matrix, basis)).reshape(change.shape)

    def end_task(self, needs: Needs, state: State) -> None:
        keep_inputs(state, needs.input_covariance_at_end, self.threshold)
