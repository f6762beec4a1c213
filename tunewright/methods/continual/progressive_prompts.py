"""Progressive prompts: each task learns a prompt, which is read before those of all earlier tasks, which stay
(Razdaibiedina et al. 2023, arXiv:2301.12314; papers: progressive-prompts).

    task t reads    [P_t; P_(t-1); ...; P_1; x],  P_i in R^(n x D); P_t alone trains, beside the task's rows of the head
    an answer       the logits of a task's classes are those that the model gives behind that task's own prompts

So later tasks may use what earlier ones learnt and take nothing from them: with the task known (`scenario:
task-incremental`), a row is answered as it was when its task ended, to rounding. With the task unknown all tasks'
logits are compared with one another, which the paper does not do. A class that comes again is its last task's. The base
stays as it is. Each task is a stage that starts from the one before with `carry: frozen`.

Left to later stages by name: `prompt` [n, D] of the last task, `prompts` [t, n, D] of those before, oldest first,
`owners` (the task of each class), `classes`, `task`. The change does not fold. MethodError for decoders and for
networks without attention. Cost: as many forwards of a row as tasks when it is asked, one while training.

Defaults: ten virtual tokens a task (the paper's for BERT), which start uniform in +-1; the rate is ours. Source: the
paper's equation 3, arazd/ProgressivePrompts (T5_codebase/t5_continual.py).
Differs from the paper in: no residual network makes the prompts (the code's default, too); they enter the first block
behind the embeddings, without positions (there: before BERT's position embeddings), so that pictures are served too;
prompts do not start as tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Needs, Setup, State
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.adapted import Adapted
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import among_seen
from tunewright.pieces.prompt_pool import PromptPoolMethod, uniform

NAME = "progressive-prompts"


class Progressive(nn.Module):
    """A classifier that answers each class behind its own task's prompts; while it trains, behind the last one's."""

    def __init__(self, places: PromptPlaces, state: State):
        super().__init__()
        self.model: Any = places.model
        self.config = self.model.config
        self._held = (places, state)  # in a tuple: neither is a part of the wrapper

    def forward(self, **inputs: Any) -> Any:
        places, state = self._held
        every = torch.cat([state.get_buffer("prompts"), state.get_parameter("prompt")[None]])
        rows, last = len(next(iter(inputs.values()))), len(every) - 1
        owners = {} if self.training else dict(zip(state.data["classes"], state.data["owners"], strict=True))
        answered, out = {}, None
        for task in sorted({*owners.values(), last}):
            own = every[: task + 1].flip(0).flatten(0, 1)
            with places.inserting(Inserted(own.expand(rows, -1, -1))):
                out = self.model(**inputs)
            answered[task] = out.logits
        if owners:
            assert out is not None
            columns = {c: answered[t][:, c] for c, t in owners.items()}
            logits = torch.stack([columns.get(c, out.logits[:, c]) for c in range(out.logits.shape[1])], 1)
            out.logits = among_seen(logits, list(owners))
        return out


class ProgressivePrompts(PromptPoolMethod):
    """A prompt for each task, read before those of the earlier tasks, which stay as they are."""

    length: PositiveInt = Field(10, description="virtual tokens of a task, n", examples=[2])

    _name: ClassVar[str] = NAME

    learning_rates: ClassVar[Mapping[str, float]] = {"": 6e-3}
    leaves: ClassVar[tuple[str, ...]] = ("prompt", "prompts", "classes", "owners", "task")
    category: ClassVar[str] = "prompt"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[Mapping[str, object]] = {"length": 3}

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(),)

    def setup(self, run: Setup) -> State:
        state, before = self._begun(run)
        _, width, _ = self._widths(run)
        new = uniform((self.length, width), run)
        state.data["owners"] = list(before.get("owners", []))
        state.register_parameter("prompt", nn.Parameter(new))
        earlier = new[None][:0].clone()
        if before:
            last: Tensor = self._went_on(before, "prompt", new.shape, "length")
            earlier = torch.cat([before["prompts"], last[None]])
        state.set_buffer("prompts", earlier)
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return Progressive(PromptPlaces(model, structure, NAME), state)

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        owners = dict(zip(state.data["classes"], state.data["owners"], strict=True))
        super().begin_task(adapted, needs, state)
        owners |= dict.fromkeys(state.data["new"], state.data["task"])
        state.data["owners"] = [owners[c] for c in state.data["classes"]]

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        return Loss(self._own_loss(outputs, batch, state))
