"""BayesPrompt: what stands before each row is drawn from the domain's own distribution, not learnt from few rows (Li et
al. 2024, arXiv:2401.14166; papers: bayesprompt).

    x_i [D]    mean of the input embeddings of row i's prompt, as they are when it is first read
    p          mixture of K normal distributions, fitted to the x_i of the domain; `floor` is added to each variance
    theta      the x_i, moved by Stein variational gradient descent until they are a sample of p   (pieces/stein.py)
    prompt     every step anew: the mean of `drawn` of the theta, as each of n virtual tokens before every row

The domain's rows need no answers, and are a stage of their own, in which nothing trains; without one they are the rows
that are trained on, and p knows no more than these:

    - {name: domain, methods: [{bayesprompt: {domain: true}}], data: {train: texts.jsonl}, budget: {epochs: 1}}
    - {name: few, start: base, methods: [bayesprompt]}

The model trains behind the prompt, whole or by the deltas beside it; the prompt has no gradient. Rows are gathered
until one comes again (a pass is over), there are `rows`, or `gather` of the steps are done; until then the virtual
tokens are embeddings that are drawn from the vocabulary. When the stage ends the prompt is the mean of all theta, which
a draw is on average, so that answers do not hang on a draw.

Defaults: n 2 (the two markers around entities), floor 0.1, 1,000 steps of 0.01 (authors' code); K 8, `gather` 0.2 and
128 rows are ours (there: the number of relations, of which as many are drawn, one of 50 passes, and all rows). The
moving costs `moves` K rows D^2 operations: a minute of one core at D 1,024.
Raises MethodError for virtual tokens that leave a row no place.
Differs from the paper in: virtual tokens stand before the row (there: the embeddings of two markers in the text, and of
the output that is tied to them); answers in words (there: tokens of their own at a mask); padding is no part of a mean
(there it is); answers are not drawn (there each evaluated batch draws anew); shares of components in logarithms (there
a density that underflows to 0); the median leaves a point's distance to itself out. The domain is there the whole
training set, of which the few rows are a part.
Source: FF2127/bayesprompt, lit_models/transformer_full.py (read, not run).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Row
from tunewright.contract.found import Found
from tunewright.contract.method import Candidates, Choice, Method, Plan, Setup, State
from tunewright.models.adapted import Adapted
from tunewright.models.prompt import leave_room, prompted, save_prompt
from tunewright.pieces.mixtures import Mixture, fitted
from tunewright.pieces.prompts import start_prompt
from tunewright.pieces.stein import moved
from tunewright.training.inner import Inner

NAME = "bayesprompt"
MIXTURE = ("mixture_weights", "mixture_means", "mixture_roots")
"""What a stage that reads the domain leaves, [K], [K, D] and [K, D, D], and others pass on; else empty."""


def prompt_of(row: Row) -> list[int]:
    """Tokens of a row before the first that counts in the loss; of a row without a prompt, all."""
    first = next((i for i, w in enumerate(row.weights) if w > 0), 0)
    return list(row.input_ids[:first] if first > 1 else row.input_ids)


class BayesPrompt(Method):
    """Virtual tokens that are drawn from a mixture fitted to the rows, while the model trains behind them."""

    length: PositiveInt = Field(2, description="virtual tokens before each row, n; all are alike", examples=[3])
    components: PositiveInt = Field(8, description="K, components of the mixture; no more than rows", examples=[1])
    drawn: PositiveInt = Field(
        8, description="moved rows whose mean is a step's prompt; no more than rows", examples=[1]
    )
    floor: PositiveFloat = Field(0.1, description="added to every variance of the mixture", examples=[0.01])
    moves: PositiveInt = Field(1000, description="steps by which rows are moved to be a sample", examples=[2])
    rate: PositiveFloat = Field(0.01, description="length of such a step in each coordinate, about", examples=[0.1])
    gather: PositiveFloat = Field(
        0.2, le=1, description="share of the steps after which rows are gathered no longer", examples=[0.5]
    )
    rows: PositiveInt = Field(128, description="rows that are gathered at most", examples=[2])
    domain: bool = Field(
        False, description="the stage's rows are the domain: nothing trains, and the mixture is left to later stages"
    )

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-5}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    leaves: ClassVar[tuple[str, ...]] = MIXTURE
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"components": 2, "drawn": 2, "moves": 5, "rate": 0.1}

    def caution(self, plan: Plan) -> str | None:
        last = self._last(plan)
        if self.domain or last < plan.steps:
            return None
        return (
            f"rows are gathered for {last:,} of {plan.steps:,} steps, unless a pass is over before, and nothing is "
            f"trained behind the prompts that they give: lower {NAME}.gather"
        )

    def _last(self, plan: Plan) -> int:
        return max(1, round(self.gather * plan.steps))

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        leave_room(model, self.length, f"{NAME}.length")
        table: Tensor = model.get_input_embeddings().weight
        state, left = State(seed=run.rng.getrandbits(32), first={}, over=False), run.earlier.latest(NAME)
        state.set_buffer("rows", torch.zeros(0, table.shape[1]))
        state.set_buffer("prompt", start_prompt(table, 0 if self.domain else self.length, run.rng).to(table.device))
        for part in MIXTURE:
            state.set_buffer(part, torch.zeros(0) if left is None or self.domain else left.values[part].clone())
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return prompted(model, lambda: state.get_buffer("prompt"))

    def choose(self, candidates: Candidates) -> Choice:
        return Choice() if self.domain else Choice(tuple(candidates.deltas) or tuple(candidates.base))

    def step(self, inner: Inner, adapted: Adapted, step: int, plan: Plan, state: State) -> None:
        if state.get("theta") is None:
            self._gather(inner.rows, adapted, step, state)
            over = state.data["over"] or step >= self._last(plan) or len(state.get_buffer("rows")) >= self.rows
            if over and not self.domain:
                self._fit(state)
        if self.domain:
            inner.tell(0.0, 0)
            return
        if (theta := state.get("theta")) is not None:
            drawn = random.Random(f"{state.data['seed']}/{step}").sample(range(len(theta)), min(self.drawn, len(theta)))
            self._say(theta[drawn].mean(0), state)
        inner.gradients()

    def _gather(self, rows: Sequence[Row], adapted: Adapted, step: int, state: State) -> None:
        """Keep the mean of embeddings of each row that is read for the first time."""
        table: Any = adapted.model.get_input_embeddings().weight  # type: ignore[operator]
        first, means = state.data["first"], []
        for row in rows:
            if row.id not in first and (ids := prompt_of(row)):
                means.append(table.detach()[ids].float().mean(0))
            state.data["over"] |= first.setdefault(row.id, step) < step
        kept = torch.cat([state.get_buffer("rows"), *(m[None] for m in means)])
        state.set_buffer("rows", kept if self.domain else kept[: self.rows])

    def _mixture(self, state: State) -> Mixture:
        """The domain's, if an earlier stage left one, or that of the rows."""
        weights, means, roots = (state.get_buffer(part).double().cpu() for part in MIXTURE)
        if len(weights):
            return Mixture(weights, means, roots)
        rng = random.Random(f"{state.data['seed']}/mixture")
        return fitted(state.get_buffer("rows"), self.components, self.floor, rng)

    def _fit(self, state: State) -> None:
        mixture, rows = self._mixture(state), state.get_buffer("rows").double().cpu()
        theta = moved(rows, mixture.score, self.moves, self.rate)
        state.data |= {"first": {}, "away": float((theta - rows).norm(dim=1).mean())}
        state.data["gain"] = float((mixture.log_density(theta) - mixture.log_density(rows)).mean())
        state.set_buffer("theta", theta.float())

    def _say(self, vector: Tensor, state: State) -> None:
        prompt = state.get_buffer("prompt")
        prompt.copy_(vector.to(prompt.dtype).expand_as(prompt))

    def end_task(self, state: State) -> None:
        if self.domain:
            mixture = self._mixture(state)
            for part, tensor in zip(MIXTURE, (mixture.weights, mixture.means, mixture.roots), strict=True):
                state.set_buffer(part, tensor.float())
            state.data["first"] = {}
        if (theta := state.get("theta")) is not None:
            self._say(theta.mean(0), state)

    def found(self, state: State) -> Found | None:
        if (theta := state.get("theta")) is None:
            return None
        return Found(
            "Rows as a distribution",
            "rows that were moved; how far on average; how much denser the mixture is where they are now, in nats",
            {"rows": len(theta), "moved": state.data["away"], "gain": state.data["gain"]},
        )

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write the prompt as PEFT's PROMPT_TUNING adapter."""
        save_prompt(state.get_buffer("prompt"), model.config, folder, base_name)
        return True
