"""JEI-DNN: early exits in a frozen classifier, whose gates and answers are trained together (Regol et al. 2023,
arXiv:2310.09163; papers: jei-dnn).

After each block l < L an exit has a classifier, c_l = Linear(LayerNorm(mean over real tokens of the states)) [R, V],
and a gate that reads how sure it is, u(c) [R, 4] = (largest probability, entropy, margin of the two largest, entropy of
the squared and renormalised probabilities):

    g_l = sigmoid(w_l . u(c_l) + b_l)
    P_l = max(0, min(g_l, 1 - sum_(j < l) g_j)),   P_L = 1 - sum P_l          how likely a row is answered there

In use a row leaves at the first exit where P_l is at least half of what no exit before it took, and runs no further
block. Each step trains both sides of that, with gates and answers held still for one another:

    answers   sum_l P_l CE_l                          rows count at an exit as often as they leave there
    gates     BCE(g_l, [l >= best]),  best = argmin_l CE_l + cost l / L

Rows that should leave are rarer or commoner than others: their term is weighed by (gates that should stay shut) /
(gates that should open), counted over the steps so far with a memory of ten steps. For the first `warmup` of the stage
all exits count alike and gates do not train.

The body runs in evaluation mode and, where nothing of it trains, without gradient; with `lora` beside it, the low-rank
change trains by all exits' losses. A head that was drawn afresh is the last exit and trains with the others, in the
stage that draws it alone; else the head stays as it is. Blocks run are noted for each row as
`outputs.present.notes["blocks"]` and reported by the probe `early-exits`. Does not fold.

Defaults: cost 0.3 nats for the whole model, warm-up a quarter and a hundred times the rate for gates are ours (the
authors sweep the cost from 0.01 to 10, and train for thousands of steps, in which gates of the same rate come as far;
in a few hundred they would stay near where they were drawn, and all rows leave at the first exits). MethodError for a
model whose blocks are not one stack of one width. Differs from the paper in: cost is counted in blocks and not in
multiplications; entropies are divided by log V; exits read the mean over tokens, not the class token; both sides train
in every step, where the authors take turns by batches; the balance is that of earlier steps, so that it does not hang
on how a batch is split; answers are weighed by P_l alone (the authors' code scales each row so that the sum over exits
is that of an unweighted loss).
Source: networkslab/dynn, src/models/gate_training_helper.py, classifier_training_helper.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.found import Found
from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.models.chained import check_chain
from tunewright.models.deltas import set_frozen
from tunewright.models.sites import Structure
from tunewright.pieces.entropies import entropy
from tunewright.pieces.gated import watched
from tunewright.pieces.heads import classifier_head, read_by_head
from tunewright.pieces.means import last_tokens, token_means
from tunewright.pieces.seeded import seeded_start

MEMORY = 0.9
"""What a step's counts keep of those before it."""


def sureness(logits: Tensor) -> Tensor:
    """u [R, 4] of logits [R, V], without gradient: largest probability, entropy / log V, margin, entropy of the
    squared probabilities / log V; each in 0..1."""
    logits = logits.detach().float()
    first, second = logits.softmax(-1).topk(2, -1).values.unbind(-1)
    scale = math.log(logits.shape[-1])
    return torch.stack([first, entropy(logits) / scale, first - second, entropy(2 * logits) / scale], -1)


def exit_shares(gates: Tensor) -> Tensor:
    """P [R, L] of gates g [R, L - 1] in 0..1: rows sum to 1."""
    left = (1 - (gates.cumsum(1) - gates)).clamp_min(0)
    early = torch.minimum(gates, left)
    return torch.cat([early, (1 - early.sum(1, keepdim=True)).clamp_min(0)], 1)


def best_exits(losses: Tensor, cost: float) -> Tensor:
    """[R] the exit of least loss plus cost l / L, from each exit's loss [R, L]; of equal ones the first."""
    count = losses.shape[1]
    return (losses + cost * torch.arange(1, count + 1, device=losses.device) / count).argmin(1)


class Exit(nn.Module):
    """A classifier of pooled states [R, D], and the gate that reads its answer."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm, self.answer, self.gate = nn.LayerNorm(width), nn.Linear(width, classes), nn.Linear(4, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.norm(pooled.to(self.answer.weight.dtype)))
        return logits

    def open(self, logits: Tensor) -> Tensor:
        """[R] the gate's logit for answers [R, V]."""
        said: Tensor = self.gate(sureness(logits).to(self.gate.weight.dtype))[:, 0]
        return said


class EarlyExits(nn.Module):
    """The model as its task calls it. In training every exit answers every row, in use a row leaves at its exit."""

    def __init__(self, model: Any, structure: Structure, exits: nn.ModuleList):
        super().__init__()
        self.exits, self.model, self.config = exits, model, model.config
        # in a tuple: neither is a part of the wrapper a second time
        self._held = ([model.get_submodule(b.name) for b in structure.blocks], classifier_head(model))

    def train(self, mode: bool = True) -> EarlyExits:
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, output_hidden_states: bool = False, **inputs: Any) -> Any:
        mask = inputs.get("attention_mask")
        run = self._every_exit if self.training else self._leaving
        return run(inputs, mask, output_hidden_states)

    def _every_exit(self, inputs: Mapping[str, Any], mask: Tensor | None, hidden: bool) -> Any:
        blocks, head = self._held
        own = {id(p) for p in head.parameters()}
        frozen = not any(p.requires_grad and id(p) not in own for p in self.model.parameters())
        pooled: list[Tensor] = []

        def look(i: int, states: Tensor, rows: Tensor) -> None:
            pooled.append(_pooled(states, mask))

        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), read_by_head(self.model) as read:
            with watched(blocks, look, shrink=False):
                out = self.model(**inputs, output_hidden_states=hidden)
        features = read[-1]
        if features.dim() == 3:
            assert mask is not None
            features = last_tokens(features, mask)
        logits = head(features) if frozen else out.logits
        now = context.told()
        if now is not None:
            said = [e(x) for e, x in zip(self.exits, pooled, strict=True)]
            now.note("exits", torch.stack(said, 1))
        return SimpleNamespace(logits=logits, hidden_states=out.hidden_states if hidden else None)

    def _leaving(self, inputs: Mapping[str, Any], mask: Tensor | None, hidden: bool) -> Any:
        blocks, exits = self._held[0], cast(list[Exit], list(self.exits))
        answers: Tensor | None = None
        left, ran = torch.empty(0), torch.empty(0, dtype=torch.long)

        def leave(i: int, states: Tensor, rows: Tensor) -> Tensor:
            nonlocal answers, left, ran
            logits = exits[i](_pooled(states, None if mask is None else mask[rows.to(mask.device)]))
            if answers is None:
                answers = torch.zeros_like(logits)
                left, ran = answers.new_ones(len(rows)), torch.full_like(rows, len(blocks))
            opened = exits[i].open(logits).sigmoid()
            share = torch.minimum(opened, left[rows])
            go = (share >= left[rows] / 2) & (ran[rows] == len(blocks))
            left = left.index_add(0, rows, -share)
            answers = answers.index_copy(0, rows[go], logits[go])
            ran = ran.index_fill(0, rows[go], i + 1)
            return go

        with watched(blocks, leave, shrink=not hidden and not context.reads_rows(self.model)):
            out = self.model(**inputs, output_hidden_states=hidden)
        if answers is not None:
            early = (ran < len(blocks)).to(out.logits.device)
            out.logits = torch.where(early[:, None], answers.to(out.logits), out.logits)
        now = context.told()
        if now is not None:
            now.note("blocks", ran)
        return out


def _pooled(states: Tensor, mask: Tensor | None) -> Tensor:
    """[R, D] of states [R, T, D]: over all tokens where the mask [R, T] does not say which are real."""
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    return token_means(states, mask)


class JEIDNN(Method):
    """Exits inside a frozen classifier: gates and answers trained together."""

    cost: NonNegativeFloat = Field(
        0.3, description="nats of loss that running the whole model may save a row at least", examples=[5.0, 0.0]
    )
    warmup: float = Field(
        0.25, ge=0, lt=1, description="first share of the steps in which exits count alike and gates stay", examples=[0]
    )
    gate_rate: PositiveFloat = Field(100.0, description="learning rate of gates, as a multiple of the stage's")

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    papers: ClassVar[tuple[str, ...]] = ("jei-dnn",)
    conformance: ClassVar[dict[str, object]] = {"warmup": 0.1}

    def caution(self, plan: Plan) -> str | None:
        steps = plan.steps - self._warm(plan)
        if steps >= 50:
            return None
        return f"its gates train for {steps} steps: fewer than 50 leave them near where they were drawn"

    def setup(self, run: Setup) -> State:
        count = check_chain(run.structure)
        if count < 2:
            raise MethodError("a model of one block has no place for an exit", where="model", remedy="use a deeper one")
        classes = classifier_head(run.adapted.model).out_features
        if classes < 2:
            raise MethodError("a model of one class has nothing to be sure of", where="data", remedy="give two classes")
        trained = list(run.adapted.new) if run.plan.index else []  # by a stage before this one
        state = State(opened=0.0, shut=0.0, shares=[0.0] * count, rows=0.0, now={}, still=trained)
        with seeded_start(run.rng):
            state.exits = nn.ModuleList(Exit(run.structure.whole[0].size, classes) for _ in range(count - 1))
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        exits: Any = state.exits
        for name in state.data["still"]:
            set_frozen(model.get_parameter(name), True)
        return EarlyExits(model, structure, exits.to(next(model.parameters()).device))

    def rates(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        return {n: self.gate_rate for n in parameters if n.startswith("jei-dnn.") and ".gate." in n}

    def objective(self, outputs: Outputs, batch: Batch, step: int, plan: Plan, state: State) -> Loss:
        early = outputs.present.notes["exits"][-1]
        every = torch.cat([early, outputs.logits[:, None].to(early.dtype)], 1).float()
        count = every.shape[1]
        losses = F.cross_entropy(every.transpose(1, 2), batch.labels[:, None].expand(-1, count), reduction="none")
        if step < self._warm(plan):
            return Loss(losses.mean(1))
        exits: Any = state.exits
        gates = torch.stack([e.open(early[:, i]) for i, e in enumerate(exits)], 1).float()
        shares = exit_shares(gates.detach().sigmoid())
        wanted = torch.arange(count - 1, device=gates.device) >= best_exits(losses.detach(), self.cost)[:, None]
        balance = state.data["shut"] / state.data["opened"] if state.data["opened"] and state.data["shut"] else 1.0
        missed = F.binary_cross_entropy_with_logits(gates, wanted.float(), reduction="none")
        missed = (missed * torch.where(wanted, balance, 1.0)).mean(1)
        now = state.data["now"]
        for row, opened, share in zip(batch.row_ids, wanted.sum(1).tolist(), shares.tolist(), strict=True):
            now[row] = [opened, share]
        answers = (shares * losses).sum(1)
        blocks = shares @ torch.arange(1.0, count + 1, device=shares.device)
        return Loss(answers + missed, logs={"answers": answers, "gates": missed, "blocks": blocks})

    def after_step(self, state: State) -> None:
        data, now = state.data, state.data["now"]
        if not now:
            return
        gates = len(data["shares"]) - 1
        opened = sum(n for n, _ in now.values())
        data["opened"] = MEMORY * data["opened"] + opened
        data["shut"] = MEMORY * data["shut"] + len(now) * gates - opened
        data["rows"] = MEMORY * data["rows"] + len(now)
        columns = zip(*(share for _, share in now.values()), strict=True)
        data["shares"] = [MEMORY * old + sum(new) for old, new in zip(data["shares"], columns, strict=True)]
        data["now"] = {}

    def found(self, state: State) -> Found | None:
        data = state.data
        if not data["rows"]:
            return None
        shares = [s / data["rows"] for s in data["shares"]]
        count = len(shares)
        return Found(
            title="Exits in training",
            description="How often rows were answered after each block in the last steps of training, and the blocks "
            "that this ran, as a share of the model's. The probe early-exits says the same of evaluated rows.",
            values={"share_of_blocks": sum((i + 1) * s for i, s in enumerate(shares)) / count},
            columns=["block", "share of rows"],
            rows=[[i + 1, s] for i, s in enumerate(shares)],
        )

    def _warm(self, plan: Plan) -> int:
        return round(self.warmup * plan.steps)
