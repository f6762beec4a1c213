"""DualPrompt: a prompt that all tasks share and one for each task, as keys and values before a row's own (Wang et al.
2022, arXiv:2204.04799; papers: dualprompt).

    q(x)     what the head reads of x by the untouched base                                                   [R, D]
    G        [2, L_g, W] keys and values in each of the first blocks; trained by every task
    E_t      [2, L_e, W] in each of the blocks behind them, and a key k_t in R^D; trained by task t alone
    loss     cross-entropy over the task's own classes + lambda (1 - cos(q(x), k_t))

While task t trains, every row reads G and E_t; a row that is asked reads G and the E_i whose key is most alike to q(x)
(noted as `outputs.present.notes["pool_chosen"]`), behind which the model's attention finds its own keys and values. The
base stays as it is; the task's own rows of the head train. E_t starts where E_(t-1) ended, its key anew. Each task is a
stage that starts from the one before with `carry: frozen`.

Left to later stages by name: `general`, `expert` and `key` (the last task's), `experts` and `keys` (of those before),
`classes`, `task`. The change does not fold. MethodError for decoders and for networks without attention.

Defaults: lengths 5, lambda 0.1, G in the first two and E in the next three of twelve blocks (the authors'; of other
depths their share, at least one block), starts uniform in +-1; the rate is ours. Source: the paper's equations 1 to 6,
JH-LEE-KR/dualprompt-pytorch (prompt.py, attention.py), sun-hailong/LAMDA-PILOT (exps/dualprompt.json).
Differs from the paper in: there are as many experts as tasks (the code: a pool of ten, all of whose keys may win, those
without a task too); each row has its own expert when asked (the code: the one that most rows of the batch picked).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Setup, State
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.prompt_pool import (
    Prompted,
    PromptPoolMethod,
    blocks_of,
    joined,
    key_loss,
    nearest_keys,
    note_choice,
    pairs_at,
    uniform,
)

NAME = "dualprompt"
GENERAL, EXPERT = (0, 2), (2, 5)
"""Of twelve blocks: those that read G, and E."""


class DualPrompt(PromptPoolMethod):
    """A prompt of all tasks and one for each task, retrieved by the frozen model's own reading of a row."""

    general_length: PositiveInt = Field(5, description="keys and values of the prompt of all tasks, L_g", examples=[2])
    expert_length: PositiveInt = Field(5, description="keys and values of a task's own prompt, L_e", examples=[2])
    general_blocks: tuple[int, ...] | None = Field(
        None, description="blocks that read the prompt of all tasks, from 0; none: the first sixth", examples=[[1]]
    )
    expert_blocks: tuple[int, ...] | None = Field(
        None,
        description="blocks that read a task's own prompt; none: the quarter behind the first sixth",
        examples=[[1]],
    )
    coefficient: NonNegativeFloat = Field(
        0.1, description="lambda, how strongly a task's key is pulled to its rows", examples=[1.0]
    )

    _name: ClassVar[str] = NAME

    learning_rates: ClassVar[Mapping[str, float]] = {"": 6e-3}
    leaves: ClassVar[tuple[str, ...]] = ("general", "expert", "key", "experts", "keys", "classes", "task")
    category: ClassVar[str] = "prompt"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[Mapping[str, object]] = {"general_length": 3, "expert_length": 3, "coefficient": 0.3}

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(),)

    def setup(self, run: Setup) -> State:
        state, before = self._begun(run)
        asked, _, width = self._widths(run)
        shared, own = self._blocks(run.structure)
        shapes = {
            "general": (len(shared), 2, self.general_length, width),
            "expert": (len(own), 2, self.expert_length, width),
        }
        self._keep(state, before, run, shapes, "general_length, expert_length")
        state.register_parameter("key", nn.Parameter(uniform((asked,), run)))
        for name, one in (("experts", "expert"), ("keys", "key")):
            earlier = torch.cat([before[name], before[one][None]]) if before else None
            state.set_buffer(name, state.get_parameter(one).detach()[None][:0].clone() if earlier is None else earlier)
        return state

    def _blocks(self, structure: Structure) -> tuple[list[int], list[int]]:
        return (
            blocks_of(self.general_blocks, structure, GENERAL, "general_blocks"),
            blocks_of(self.expert_blocks, structure, EXPERT, "expert_blocks"),
        )

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        shared, own = self._blocks(structure)

        def choose(query: Tensor, training: bool) -> Inserted:
            key, expert = state.get_parameter("key")[None], state.get_parameter("expert")[None]
            if training:
                experts, keys, first = expert, key, len(state.get_buffer("keys"))
            else:
                experts, keys = (
                    torch.cat([state.get_buffer("experts"), expert]),
                    torch.cat([state.get_buffer("keys"), key]),
                )
                first = 0
            chosen, cosines = nearest_keys(query, keys, 1)
            note_choice(chosen + first, cosines)
            general = state.get_parameter("general").expand(len(query), -1, -1, -1, -1)
            return Inserted(pairs=joined(pairs_at(own, experts[chosen[:, 0]]), pairs_at(shared, general)))

        return Prompted(PromptPlaces(model, structure, NAME), structure, state, choose)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        apart = key_loss(outputs)
        return Loss(self._own_loss(outputs, batch, state) + self.coefficient * apart, logs={"key_distance": apart})
