"""L2P: prompts of a pool, picked for each row by their keys, are read before it (Wang et al. 2021, arXiv:2112.08654;
papers: l2p).

    q(x)      what the head reads of x by the untouched base                                                  [R, D]
    chosen    the N keys k_i in R^D most alike to q(x) by their cosine
    read      [P_(s_1); ...; P_(s_N); x],  P_i in R^(L x D): prompts enter the first block before the row's states
    answer    the head on the mean of what the last block (and the norm behind it) gives in the prompts' places
    loss      cross-entropy over the task's own classes + lambda sum_(i chosen) (1 - cos(q(x), k_i))

The base stays as it is; pool, keys and head train, in every task. Each task is a stage that starts from the one before
with `carry: frozen`; which prompts a row got is noted as `outputs.present.notes["pool_chosen"]`. `head: token` lets the
head read the row's own first token instead, as the base's does; a model whose head reads another place (a mean over
tokens) sees prompts only through the attention.

Left to later stages by name: `keys` [M, D], `prompts` [M, L, D], `classes`. The change does not fold. MethodError for
decoders, for networks without attention, and where weights of the base train beside it.

Defaults: the authors' for CIFAR-100 (M 10, L 5, N 5, lambda 0.1 as in PILOT; the paper: 0.5), starts uniform in
+-1; the rate is ours. Source: the paper's equations 1 to 5, JH-LEE-KR/l2p-pytorch (prompt.py, engine.py) and
sun-hailong/LAMDA-PILOT (backbone/vit_l2p.py, exps/l2p.json).
Differs from the paper in: each row has its own prompts while it trains (the code: those that most rows of the batch
picked, so that a row hung on its batch); prompts take no position of their own; no penalty on often-picked prompts (the
paper's, for training with known boundaries; not in the code's defaults).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.prompt_pool import (
    Prompted,
    PromptPoolMethod,
    key_loss,
    nearest_keys,
    note_choice,
    own_prompts,
)

NAME = "l2p"


class L2P(PromptPoolMethod):
    """Prompts of a pool, picked by the frozen model's own reading of a row."""

    size: PositiveInt = Field(10, description="prompts in the pool, M", examples=[4])
    length: PositiveInt = Field(5, description="virtual tokens of a prompt, L", examples=[2])
    top_k: PositiveInt = Field(5, description="prompts that a row is given, N", examples=[1])
    coefficient: NonNegativeFloat = Field(
        0.1, description="lambda, how strongly chosen keys are pulled to the rows", examples=[1.0]
    )
    head: Literal["prompts", "token"] = Field(
        "prompts", description="what the head reads: the mean over the prompts' outputs, or the row's own first token"
    )

    _name: ClassVar[str] = NAME

    learning_rates: ClassVar[Mapping[str, float]] = {"": 6e-3}
    leaves: ClassVar[tuple[str, ...]] = ("keys", "prompts", "classes", "task")
    category: ClassVar[str] = "prompt"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[Mapping[str, object]] = {"size": 5, "length": 2, "top_k": 2}

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(),)

    def setup(self, run: Setup) -> State:
        if self.top_k > self.size:
            raise MethodError(
                f"a row cannot be given {self.top_k} of {self.size} prompts",
                where=f"'{NAME}', top_k",
                remedy=f"write {self.size} or fewer",
            )
        state, before = self._begun(run)
        asked, width, _ = self._widths(run)
        shapes = {"keys": (self.size, asked), "prompts": (self.size, self.length, width)}
        self._keep(state, before, run, shapes, "size, length")
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        def choose(query: Tensor, training: bool) -> Inserted:
            chosen, cosines = nearest_keys(query, state.get_parameter("keys"), self.top_k)
            note_choice(chosen, cosines)
            return Inserted(own_prompts(state.get_parameter("prompts"), chosen))

        return Prompted(PromptPlaces(model, structure, NAME), structure, state, choose, self.head)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        own, apart = self._own_loss(outputs, batch, state), key_loss(outputs)
        return Loss(own + self.coefficient * apart, logs={"key_distance": apart / self.top_k})
