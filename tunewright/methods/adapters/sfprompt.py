"""SFPrompt: clients hold the ends of a model and a prompt, a server its body, and most learning needs no server (Cao et
al. 2024, arXiv:2407.17533; papers: sfprompt).

    W_h, p, W_t  on every client: the first blocks and what stands before them, n virtual tokens before the first block,
                 the last blocks and the classifier (`client_blocks`: how many at either end)
    W_b          on the server: the blocks between; it stays as it is, and so does W_h

A round, which is an optimizer step, is for each client k with n_k rows of it:

    1. alone     `local_epochs` passes over its rows: descend L(W_t(W_h(p, x)), y), no body, nothing sent
    2. pruned    the share `keep` of its rows with the largest ||softmax(W_t(W_h(p, x))) - y||_2 is kept (EL2N)
    3. together  one pass over these: descend L(W_t(W_b(W_h(p, x))), y); states cross to the server and back, and
                 their gradients too
    4. averaged  p and W_t become their mean over clients, by n_k

Deltas of methods beside it train too: in the body they are the server's, and no client sends them. Answers are given
behind the prompt by the whole model. Bytes sent and operations done by clients are counted (`models/split.py`) and
reported; `fedavg` counts alike. Clients are simulated, one after another in one process.

Defaults: one block at either end, 5 virtual tokens, half of the rows (ours); p starts uniform in
+-sqrt(6 / (n + D)). The change does not fold.
Raises MethodError for decoders and networks without attention, where the client or the server has no block, and beside
a method on `penalty` or `gradient`.
Reconstructed from the abstract and summaries of the paper: that prompt and tail train, head and body stay, and the
highest scores are kept is what these say; optimizer, cuts and numbers are ours. No code of the authors was found.
Differs from the paper in: the clients of a round are those that have rows in it (there some are drawn).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Choice, Setup, State, torch_generator
from tunewright.methods.optimization._federated import Client, FederatedMethod
from tunewright.models.adapted import Adapted
from tunewright.models.flops import counting
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.models.split import Crossing, Split
from tunewright.training.inner import Inner

NAME = "sfprompt"
_ALONE: ContextVar[bool] = ContextVar("tunewright_without_body", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, a split model is its client's ends, without the body."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """[R] length of softmax(logits [R, V]) - onehot(labels [R]) (Paul et al. 2021, arXiv:2107.07075)."""
    away = logits.float().softmax(-1)
    away[torch.arange(len(labels), device=labels.device), labels] -= 1
    return away.norm(dim=-1)


def hardest(scores: Sequence[float], keep: float) -> list[int]:
    """Rising places of the share `keep` with the largest scores, at least one; of equal ones the first."""
    count = max(1, math.ceil(keep * len(scores) - 1e-9))
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


class SplitModel(nn.Module):
    """An encoder that reads a prompt before every row, with its body or, inside `alone()`, without."""

    def __init__(self, model: nn.Module, structure: Structure, split: Split, state: State):
        super().__init__()
        self.model: Any = model
        self.config = self.model.config
        whole, ends = (PromptPlaces(model, structure, NAME) for _ in range(2))
        bare = ends.last is ends.blocks[-1]  # no norm behind the blocks: what ends the path takes the prompt away
        ends.blocks = [ends.blocks[i] for i in split.path]
        ends.last = ends.blocks[-1] if bare else ends.last
        self._held = (split, whole, ends, state)  # in a tuple: none of it is a part of the wrapper

    def forward(self, **inputs: Any) -> Any:
        split, whole, ends, state = self._held
        count = len(next(v for v in inputs.values() if isinstance(v, Tensor)))
        read = Inserted(state.get_parameter("prompt")[None].expand(count, -1, -1))
        if not _ALONE.get():
            with whole.inserting(read):
                return self.model(**inputs)
        with split.alone(self.model), ends.inserting(read):
            return self.model(**inputs)


class SFPrompt(FederatedMethod):
    """Clients train a prompt and the last blocks, mostly without the body, which a server holds."""

    length: PositiveInt = Field(5, description="number of virtual tokens before each row, n", examples=[3])
    client_blocks: tuple[NonNegativeInt, NonNegativeInt] = Field(
        (1, 1),
        description="how many of the first blocks a client holds and leaves as they are, and how many of the last it "
        "holds and trains with the classifier",
        examples=[(0, 1)],
    )
    keep: float = Field(
        0.5, gt=0, le=1, description="share of a client's rows that are learnt with the server", examples=[0.25]
    )

    category: ClassVar[str] = "hybrid"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[Mapping[str, object]] = {
        "clients": 2, "local_rows": 2, "length": 2, "client_blocks": (1, 0),
    }  # fmt: skip

    def setup(self, run: Setup) -> State:
        places = PromptPlaces(run.adapted.model, run.structure, NAME)
        self._split(run.structure)
        state = super().setup(run)
        bound = math.sqrt(6 / (self.length + places.width))
        start = torch.empty(self.length, places.width)
        state.prompt = nn.Parameter(start.uniform_(-bound, bound, generator=torch_generator(run.rng)))
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return SplitModel(model, structure, self._split(structure), state)

    def choose(self, candidates: Candidates) -> Choice:
        behind = self._split(candidates.structure).tail(candidates.adapted.model)
        return Choice((*(n for n in behind if n in candidates.base), *candidates.deltas))

    def _split(self, structure: Structure) -> Split:
        return Split(structure, *self.client_blocks, f"{NAME}.client_blocks")

    def _client(self, client: Client, state: State) -> None:
        model = client.adapted.model
        split, crossing = self._split(client.adapted.structure), Crossing()
        with counting(split.server(model)) as counted:
            with alone():
                self._go(client, client.places, self.local_epochs, "alone")
                kept = self._pruned(client)
            with crossing.watching(model, split):
                self._go(client, kept, 1, "together")
        client.operations, client.states = counted.total, crossing.bytes

    def _pruned(self, client: Client) -> list[int]:
        """The places of those rows that the client's ends know least."""
        if self.keep == 1:
            return list(client.places)
        found: dict[str, float] = {}
        with client.inner.reading() as read:
            for batch in client.inner.batches(client.places):
                scores = el2n(read(batch).logits, batch.labels).tolist()
                found.update({batch.row_ids[int(r)]: s for r, s in zip(batch.rows, scores, strict=True)})
        ids = [row.id for row in client.pick(client.places)]
        return [client.places[i] for i in hardest([found[i] for i in ids], self.keep)]

    def _sent(self, inner: Inner, adapted: Adapted) -> list[nn.Parameter]:
        split = self._split(adapted.structure)
        return [p for n, p in inner.parameters.items() if not split.on_server(n)]
