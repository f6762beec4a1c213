"""Rounds of clients that train apart and are averaged: shared by `fedavg` and `sfprompt`.

An optimizer step is a round. Its rows are those that the clients have at hand; each client starts from the round's
weights, steps by an optimizer of its own on its rows alone, and the weights become

    w + sum over clients k of (n_k / n) (w_k - w)              n_k: the client's rows in the round, n: all of them

What clients send is counted as it would cross a network, and so are the operations that they do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Row
from tunewright.contract.found import Found
from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.pieces.clients import by_client, mean_change
from tunewright.training.inner import Inner


@dataclass
class Client:
    """One client's part of a round: its rows, by their places among the step's; `at` names its draws.

    A method adds what it counts: `states`, bytes of activations and their gradients both ways, and `operations`.
    """

    inner: Inner
    places: Sequence[int]
    at: str
    adapted: Adapted
    optimizer: torch.optim.Optimizer
    loss: float = 0.0
    states: int = 0
    operations: float = 0.0

    def pick(self, places: Sequence[int]) -> list[Row]:
        """Rows by their places among the step's."""
        rows = self.inner.rows
        return [rows[i] for i in places]


class FederatedMethod(Method):
    """Base of methods whose step is a round of clients. A subclass says what a client does (`_client`)."""

    clients: PositiveInt | None = Field(
        5, description="clients that rows are spread over, each row by its id; none: each source is a client",
        examples=[3],
    )  # fmt: skip
    alpha: PositiveFloat | None = Field(
        None,
        description="concentration of the Dirichlet that each class's shares among the clients are drawn from (rows "
        "without classes: each source's); the smaller, the less alike they are; none: equal shares",
        examples=[0.1],
    )
    local_epochs: PositiveInt = Field(1, description="passes of a client over its rows in a round", examples=[2])
    local_rows: PositiveInt = Field(8, description="rows of a client's own step", examples=[1])
    local_optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="a client's optimizer, begun anew in every round"
    )

    ranks: ClassVar[bool] = False
    conformance: ClassVar[Mapping[str, object]] = {"clients": 2, "local_rows": 2}

    def caution(self, plan: Plan) -> str | None:
        if plan.steps > 1:
            return None
        return "there is one round, in which clients never see what others learnt: lower train.batch_tokens"

    def setup(self, run: Setup) -> State:
        return State(seed=run.rng.getrandbits(32), rounds=0, clients={}, parameters=0, states=0)

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float, state: State
    ) -> torch.optim.Optimizer:
        # holds the rates that schedule and other methods ask for; the round, and not this, moves the weights
        made = torch.optim.SGD(list(parameters.values()), lr=learning_rate)
        vars(state).setdefault("rates", {}).update(dict.fromkeys(parameters, made))
        vars(state)["decay"] = weight_decay
        return made

    def step(self, inner: Inner, adapted: Adapted, step: int, state: State) -> None:
        for slot in ("penalty", "gradient"):
            if others := inner.on(slot):
                raise MethodError(
                    f"'{others[0]}' acts on the gradient of a step, and here a step is a round of clients, each with "
                    "steps of its own",
                    where=f"methods, '{others[0]}'",
                    remedy="put it into a stage of its own",
                )
        seed, rows = state.data["seed"], inner.rows
        parts = by_client(rows, self.clients, self.alpha, seed)
        starts = {n: p.detach().clone() for n, p in inner.parameters.items()}
        ends: list[dict[str, Tensor]] = []
        told: list[Client] = []
        try:
            for name, places in parts.items():
                _put(inner, starts)
                client = Client(inner, places, f"{seed}/{step}/{name}", adapted, self._local(inner, state))
                self._client(client, state)
                ends.append({n: p.detach().clone() for n, p in inner.parameters.items()})
                told.append(client)
        finally:
            _put(inner, starts)
        counts = [len(p) for p in parts.values()]
        moved = mean_change(starts, ends, counts)
        vars(state)["moved"] = moved
        inner.leave({n: -m for n, m in moved.items()})
        self._note(parts, told, self._sent(inner, adapted), state)
        loss = sum(c.loss * k for c, k in zip(told, counts, strict=True)) / len(rows)
        inner.tell(loss, sum(sum(w > 0 for w in r.weights) for r in rows), clients=float(len(parts)))

    def update(self, changes: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
        """The clients' mean, in the place of what an optimizer makes of it."""
        moved: dict[str, Tensor] = vars(state).pop("moved")
        return {**changes, **moved}

    def _client(self, client: Client, state: State) -> None:
        raise NotImplementedError

    def _sent(self, inner: Inner, adapted: Adapted) -> list[nn.Parameter]:
        """What trains and goes to a client and back in each round."""
        return list(inner.parameters.values())

    def _local(self, inner: Inner, state: State) -> torch.optim.Optimizer:
        """A client's optimizer, at the present rate of each parameter."""
        made = {id(o): o for o in vars(state)["rates"].values()}.values()
        rates = {id(p): float(g["lr"]) for o in made for g in o.param_groups for p in g["params"]}
        groups = [{"params": [p], "lr": rates[id(p)]} for p in inner.parameters.values()]
        kind = torch.optim.AdamW if self.local_optimizer == "adamw" else torch.optim.SGD
        return kind(groups, lr=0.0, weight_decay=vars(state)["decay"])

    def _go(self, client: Client, places: Sequence[int], epochs: int, draw: str) -> None:
        """Step through rows of a client in parts, in an order of each epoch's own; its loss is the mean of the last."""
        for epoch in range(epochs):
            losses = []
            for part in self._parts(places, f"{client.at}/{draw}/{epoch}"):
                gradients, loss = client.inner.gradients_of(client.pick(part))
                losses.append(loss * len(part))
                for n, p in client.inner.parameters.items():
                    p.grad = gradients.get(n)
                client.optimizer.step()
                client.optimizer.zero_grad()
                client.inner.moved()
            client.loss = sum(losses) / len(places)

    def _parts(self, places: Sequence[int], draw: str) -> Iterator[list[int]]:
        order = list(places)
        random.Random(draw).shuffle(order)
        for i in range(0, len(order), self.local_rows):
            yield order[i : i + self.local_rows]

    def _note(
        self, parts: Mapping[str, Sequence[int]], told: Sequence[Client], sent: Sequence[Tensor], state: State
    ) -> None:
        data, size = state.data, sum(p.numel() * p.element_size() for p in sent)
        data["rounds"] += 1
        for (name, places), client in zip(parts.items(), told, strict=True):
            data["parameters"] += 2 * size
            data["states"] += client.states
            held = data["clients"].setdefault(name, [0, 0, 0.0])
            held[0] += len(places)
            held[1] += 2 * size + client.states
            held[2] += client.operations

    def found(self, state: State) -> Found | None:
        data = state.data
        if not data["rounds"]:
            return None
        held: dict[str, list[Any]] = data["clients"]
        return Found(
            title="Clients",
            description="What all rounds cost: bytes that clients sent and were sent, of trained parameters and of the "
            "states at the cuts of a split model with their gradients, padding included; the operations of products "
            "with weights that clients did. The frozen parts that a client is given once are not in it.",
            values={
                "rounds": data["rounds"],
                "clients": len(held),
                "bytes": data["parameters"] + data["states"],
                "bytes of parameters": data["parameters"],
                "bytes of states": data["states"],
                "operations": sum(of[2] for of in held.values()),
            },
            columns=["client", "rows", "bytes", "operations"],
            rows=[[n, *of] for n, of in held.items()],
        )


def _put(inner: Inner, values: Mapping[str, Tensor]) -> None:
    """Give every trained leaf its value of the round's start."""
    with torch.no_grad():
        for n, p in inner.parameters.items():
            p.copy_(values[n])
    inner.moved()
