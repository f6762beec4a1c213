"""Prompts that a row is given by what the untouched model makes of it: shared by `l2p`, `dualprompt`, `coda-prompt`.

    q(x)      what the head reads of x by the base, with every delta off, without dropout and gradient        [R, D]
    prompts   chosen or weighted by cosines of q(x) with keys; the model reads x behind them, and its head answers

Nothing of the base trains, so that a row's query is the same after every task. Each task is a stage that starts from
the one before with `carry: frozen`; keys and prompts go on by name (`leaves`). The loss is cross-entropy over the
task's own classes, whose rows of the head's last layer train (what layers before it make is the query); a model that is
asked answers among the classes seen so far, and gives others 1e-8.

R rows, M prompts of length L in a pool, D width of the states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Candidates, Choice, Method, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.modes import evaluating
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import BASE, among_seen, branch
from tunewright.pieces.heads import (
    classifier_head,
    classifier_head_name,
    head_rows,
    loss_among,
    pooled_read,
    read_by_head,
)
from tunewright.pieces.prototypes import cosine_logits

CHOSEN, COSINES = "pool_chosen", "pool_cosines"
"""Notes of a forward (`outputs.present.notes`): which prompts each row got [R, k], and the cosines of their keys."""


def uniform(shape: Sequence[int], run: Setup) -> Tensor:
    """Numbers in +-1, from the stage's own generator."""
    return torch.empty(*shape).uniform_(-1.0, 1.0, generator=torch_generator(run.rng))


def nearest_keys(query: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(places, cosines), each [R, count], of the keys [M, D] most alike to queries [R, D], the likest first."""
    cosines, chosen = cosine_logits(query, keys).topk(count, -1)
    return chosen, cosines


Choose = Callable[[Tensor, bool], Inserted]
"""(queries [R, D], whether it trains) -> what each row reads."""


class Prompted(nn.Module):
    """A classifier that reads each row behind the prompts that `choose` gives it."""

    def __init__(self, places: PromptPlaces, structure: Structure, state: State, choose: Choose, reads: str = "token"):
        super().__init__()
        self.model: Any = places.model
        self.config = self.model.config
        self._held = (places, structure, state, choose)  # in a tuple: none of it is a part of the wrapper
        self.reads = reads

    def forward(self, **inputs: Any) -> Any:
        places, _, state, choose = self._held
        chosen = choose(self._query(inputs), self.training)
        with places.inserting(chosen, self.reads):
            out = self.model(**inputs)
        if not self.training and state.data["classes"]:
            out.logits = among_seen(out.logits, state.data["classes"])
        return out

    def _query(self, inputs: Mapping[str, Any]) -> Tensor:
        structure = self._held[1]
        with torch.no_grad(), evaluating(self.model), branch(structure, BASE), read_by_head(self.model) as seen:
            self.model(**inputs)
        return pooled_read(seen[-1], inputs).float()


def note_choice(chosen: Tensor, cosines: Tensor) -> None:
    """Let objectives see which prompts [R, k] rows got, and how like [R, k] their keys are."""
    now = context.told()
    if now is not None:
        now.note(CHOSEN, chosen)
        now.note(COSINES, cosines)


def key_loss(outputs: Outputs) -> Tensor:
    """[R] sum over a row's prompts of 1 - cos(q(x), key)."""
    cosines: Tensor = outputs.present.notes[COSINES][-1]
    return (1 - cosines).sum(-1)


class PromptPoolMethod(Method):
    """Base of methods whose prompts are chosen by the untouched base's own reading of a row.

    A subclass says its name, needs `row_labels`, and says what it keeps (`setup`, by `_begun`), how rows are given
    prompts (`wrap`) and its loss (`objective`).
    """

    _name: ClassVar[str]

    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    carries: ClassVar[Literal["fold", "frozen", "training", "drop"] | None] = "frozen"
    conformance_stages: ClassVar[int] = 2

    def _begun(self, run: Setup) -> tuple[State, Mapping[str, Any]]:
        """(state, what the last task's stage left by name: nothing before the first). MethodError for another kind of
        model, or one that brings prompts of stages that nothing is known of.
        """
        PromptPlaces(run.adapted.model, run.structure, self._name)
        before = run.earlier.inherited(self._name)
        wrapped = run.adapted.wrapped_by
        if before is None and wrapped is not None and wrapped.method["name"] == self._name and run.earlier.complete:
            raise MethodError(
                "the model brings the prompts of earlier tasks, and what these left of their classes is not known",
                where="start",
                remedy="make all tasks stages of one run",
            )
        values = {} if before is None else before.values
        state = State(classes=list(values.get("classes", [])), new=[], head=[], task=int(values.get("task", -1)) + 1)
        return state, values

    def _went_on(self, values: Mapping[str, Any], name: str, shape: Sequence[int], field: str) -> Tensor:
        """What an earlier stage left under a name. MethodError where it has another shape."""
        held: Tensor = values[name]
        if tuple(held.shape) != tuple(shape):
            raise MethodError(
                f"the stage before left {name} of shape {list(held.shape)}, and this one asks for {list(shape)}",
                where=f"'{self._name}', {field}",
                remedy="write the same values in all stages of a sequence",
            )
        return held.detach().clone()

    def _keep(
        self, state: State, before: Mapping[str, Any], run: Setup, shapes: Mapping[str, Sequence[int]], field: str
    ) -> None:
        """Parameters by name that later stages get: as the stage before left them, or drawn in +-1."""
        for name, shape in shapes.items():
            start = self._went_on(before, name, shape, field) if before else uniform(shape, run)
            state.register_parameter(name, nn.Parameter(start))

    def _widths(self, run: Setup) -> tuple[int, int, int]:
        """Widths of a query, of the states, and of a block's keys and values."""
        places = PromptPlaces(run.adapted.model, run.structure, self._name)
        return classifier_head(run.adapted.model).in_features, places.width, places.pair_width

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        new = needs.row_labels
        state.data |= {
            "new": new,
            "head": classifier_head_name(adapted.model),
            "classes": sorted({*state.data["classes"], *new}),
        }

    def choose(self, candidates: Candidates, state: State) -> Choice:
        """The task's own rows of the head, and deltas of methods beside it; what it keeps itself trains anyway."""
        return Choice(
            tuple(candidates.deltas),
            head_rows(candidates.base, state.data["head"], state.data["new"]),
            moments="preserve",
        )

    def _own_loss(self, outputs: Outputs, batch: Batch, state: State) -> Tensor:
        """[R] cross-entropy over the task's own classes."""
        return loss_among(outputs.logits, batch.labels, state.data["new"], method=self._name)


def own_prompts(prompts: Tensor, chosen: Tensor) -> Tensor:
    """[R, k L, D]: each row's prompts of a pool [M, L, D] end to end, by their places [R, k]."""
    return F.embedding(chosen, prompts.flatten(1)).view(len(chosen), -1, prompts.shape[-1])


Pairs = dict[int, tuple[Tensor, Tensor]]
"""By a block's index the keys and values [R, m, W] that its attention finds first."""


def pairs_at(blocks: Sequence[int], prompts: Tensor) -> Pairs:
    """Keys and values before some blocks, of prompts [R, blocks, 2, m, W]."""
    return {b: (prompts[:, i, 0], prompts[:, i, 1]) for i, b in enumerate(blocks)}


def joined(first: Pairs, second: Pairs) -> Pairs:
    """Both, the second ones nearer to a row's own where a block has both."""
    both = {
        b: (torch.cat([first[b][0], k], 1), torch.cat([first[b][1], v], 1))
        for b, (k, v) in second.items()
        if b in first
    }
    return {**first, **second, **both}


def blocks_of(given: Sequence[int] | None, structure: Structure, share: tuple[int, int], where: str) -> list[int]:
    """The blocks that are named, from 0; else the part of a model that `share` says of twelve, at least one block.
    MethodError for a block that the model does not have.
    """
    count = len(structure.blocks)
    if given is None:
        first = min(share[0] * count // 12, count - 1)
        return list(range(first, max(first + 1, -(-share[1] * count // 12))))
    if bad := next((b for b in given if not 0 <= b < count), None):
        raise MethodError(
            f"there is no block {bad}: the model has {count}", where=where, remedy=f"write 0 to {count - 1}"
        )
    return sorted(set(given))
