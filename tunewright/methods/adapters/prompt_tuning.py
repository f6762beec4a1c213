"""Prompt tuning: a few trainable vectors before every input (Lester et al. 2021, arXiv:2104.08691).

The model stays frozen; n vectors of the size of an embedding are read before the tokens of each row, and they alone
train. They are read wherever the model is: in packed and padded training batches, while generating, and where drift and
kept text are measured. Their places come first (0 ... n-1) and the tokens' follow.

Start: embeddings of tokens drawn from the vocabulary, or uniform in +-0.5 as the paper's random start. The change
lengthens inputs, so it does not fold into weights and the model does not start as the base; it is saved as PEFT's
PROMPT_TUNING adapter. Differs from the paper in: any token may be drawn (there: the 5,000 commonest), no start from
class names, and the recipe's optimizer (there: Adafactor at a learning rate of 0.3: rates of 1e-2 to 0.3 suit a prompt,
far above LoRA's).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from tunewright.contract.method import Method, Setup, State
from tunewright.models.prompt import leave_room, prompted, save_prompt
from tunewright.pieces.prompts import start_prompt


class PromptTuning(Method):
    """Trainable vectors before every row."""

    length: PositiveInt = Field(20, description="number of virtual tokens before each row", examples=[3])
    start: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="embeddings of tokens drawn at random, or uniform numbers in +-0.5"
    )

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 3e-2}
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    conformance: ClassVar[dict[str, object]] = {"length": 4}

    def setup(self, run: Setup) -> State:
        state, model = State(), run.adapted.model
        leave_room(model, self.length, "length")
        weight: Any = model.get_input_embeddings().weight  # type: ignore[operator]
        state.prompt = nn.Parameter(start_prompt(weight, self.length, run.rng, self.start).to(weight.device))
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return prompted(model, state.get_parameter("prompt"))

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write PEFT's PROMPT_TUNING adapter."""
        save_prompt(state.get_parameter("prompt"), model.config, folder, base_name)
        return True
