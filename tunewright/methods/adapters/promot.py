"""ProMoT: a soft prompt takes in a task's format first, then the model is tuned behind it (Wang et al. 2022,
arXiv:2211.00635; papers: promot).

Two stages, both of this method and each from the same weights theta_0:

    prompt    min over P of L(theta_0, P)            P [n, D], virtual tokens before each row; the model stays
    model     min over theta of L(theta, P*)         P* as it was left; all weights train, or the deltas beside it

    - {name: prompt, methods: [promot]}
    - {name: model, start: base, methods: [promot]}

The task's rows are read as f(theta*, [P*; x]) and all others as f(theta*, x): what the format has taught stays in P*,
and the model answers other tasks, by examples in its context too, more nearly as before. Which rows are others,
`without` says: by itself those of `keep`, and the sequences that drift is measured on; a row of which no source is
known (a chat) has the prompt. A third and
fourth stage (`start` the second, `carry: drop`) do the same for the next task.

P starts at embeddings of tokens drawn from the vocabulary, or uniform in +-0.5; it has a rate of its own.

Defaults: n 100 (the paper); rates 3e-2 of the prompt and 8e-5 of the model under AdamW, those of prompt tuning and of
full tuning here (the paper: 0.2 for 5,000 steps and 1e-3 for 1,000, Adafactor, batch 64, dropout and label smoothing
0.1). Raises MethodError for a prompt that leaves a row no place, and for a source in `without` that the run does not
read.
Differs from the paper in: causal models, where it has mT5 XXL; the last step's prompt is kept and not the best of
several checkpoints on the task; no 1-shot example behind the prompt.
No code of the authors was found: written from what is known of the paper's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Choice, Method, Plan, Setup, State
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.prompt import leave_room, prompted, save_prompt
from tunewright.pieces.prompts import start_prompt

NAME = "promot"
DRIFT = "drift"
"""The source of the sequences that drift is measured on."""


class ProMoT(Method):
    """A prompt that is learnt first and stays, and then the model behind it."""

    length: PositiveInt = Field(100, description="number of virtual tokens before each row, n", examples=[3])
    start: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="embeddings of tokens drawn at random, or uniform numbers in +-0.5"
    )
    prompt_rate: PositiveFloat = Field(3e-2, description="learning rate of the prompt", examples=[0.3])
    without: tuple[str, ...] | None = Field(
        None,
        description="sources whose rows are read without the prompt, by the name or else the path that rows have in "
        "rows.jsonl (quickstart:keep, notes.txt; drift: the sequences that drift is measured on); none: all of `keep`, "
        "and drift; []: no source",
        examples=[["small"]],
    )

    category: ClassVar[str] = "hybrid"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-5}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    leaves: ClassVar[tuple[str, ...]] = ("prompt", "phase")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"length": 4}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        left, model = run.earlier.latest(NAME), run.adapted.model
        if left is not None and left.values["phase"] == "prompt":
            state = State(phase="model", without=self._others(run.plan))
            state.set_buffer("prompt", left.values["prompt"].detach().clone())
            leave_room(model, len(left.values["prompt"]), "length")
            return state
        leave_room(model, self.length, "length")
        state, table = State(phase="prompt", without=self._others(run.plan)), model.get_input_embeddings().weight  # type: ignore[operator]
        state.prompt = nn.Parameter(start_prompt(table, self.length, run.rng, self.start).to(table.device))
        return state

    def _others(self, plan: Plan) -> list[str]:
        """The sources whose rows have no prompt."""
        if self.without is None:
            return [*plan.kept, DRIFT]
        there = [*plan.sources, *plan.kept, *plan.measured, DRIFT]
        if strange := next((name for name in self.without if name not in there), None):
            raise MethodError(
                f"no source that is read here is called '{strange}'",
                where=f"{NAME}.without",
                remedy=did_you_mean(strange, there),
            )
        return list(self.without)

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return prompted(model, lambda: _prompt(state), frozenset(state.data["without"]))

    def choose(self, candidates: Candidates, state: State) -> Choice:
        if state.data["phase"] == "prompt":
            return Choice()
        return Choice(tuple(candidates.deltas) or tuple(candidates.base))

    def rates(self, parameters: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
        return {n: self.prompt_rate / plan.learning_rate for n in parameters if n == f"{NAME}.prompt"}

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write the prompt as PEFT's PROMPT_TUNING adapter."""
        save_prompt(_prompt(state), model.config, folder, base_name)
        return True


def _prompt(state: Any) -> Tensor:
    """The prompt, whether it trains or not."""
    held: Tensor = dict([*state.named_parameters(), *state.named_buffers()])["prompt"]
    return held
