"""A small network that gives shares of domains, and how it is fitted to trajectories: imitation, then CQL.

B states, K domains (padded to the most there are), F features. One network reads every domain beside the mean over
all of them, so that their order, names and number do not matter:

    h = silu(W1 [x_i, mean x]);  h' = silu(W2 [h_i, mean h]);  o_i = w3 h'_i + b3

    agent   p(s)    = softmax over domains of o                                                 [B, K]
    critic  Q(s, a) = mean over domains of o, with a and log(a + 0.05) beside each domain's features     [B]

The fit is on the CPU, with a generator of its own, and draws nothing from anybody else's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.methods.inputs import _trajectories as trajectories

WIDTH = 32
PARTS = ("weight1", "weight2", "weight3", "bias1", "bias2", "bias3")
SAMPLES, NOISE = 4, 0.5
"""Mixtures drawn evenly, and as many around the agent's own (by so much of its logits), whose values are held down."""
BATCH, RATE, AGENT_RATE, DECAY = 64, 2e-3, 3e-4, 0.03
"""Transitions an update, Adam's rate (while it climbs, the agent's own), and the critics' weight decay."""
FOLLOW = 0.01
"""How fast the slow critics follow."""

Network = dict[str, Tensor]


@dataclass(frozen=True)
class Transitions:
    """States [N, K, F], which domains are there [N, K], shares [N, K], rewards [N], next states, whether one is the
    last [N]; `good` [N]: of the half of the trajectories that ended best.
    """

    states: Tensor
    there: Tensor
    shares: Tensor
    rewards: Tensor
    following: Tensor
    last: Tensor
    good: Tensor

    def take(self, i: Tensor) -> Transitions:
        return Transitions(*(getattr(self, n)[i] for n in self.__dataclass_fields__))


def transitions(found: Sequence[trajectories.Trajectory], balance: float) -> Transitions:
    """Every look of every trajectory but the last, rewards over their standard deviation."""
    most = max(len(t["domains"]) for t in found)
    rows: list[tuple[Tensor, ...]] = []
    totals = []
    for t in found:
        worth = [trajectories.worth(t, k, balance) for k in range(len(t["looks"]) - 1)]
        totals.append(sum(worth))
        seen = [_padded(trajectories.seen(t, k), most) for k in range(len(t["looks"]))]
        there = torch.arange(most) < len(t["domains"])
        for k, r in enumerate(worth):
            shares = _padded(torch.tensor(t["looks"][k]["shares"], dtype=torch.float32), most)
            last = torch.tensor(float(k == len(worth) - 1))
            rows.append((seen[k], there, shares, torch.tensor(r, dtype=torch.float32), seen[k + 1], last))
    middle = sorted(totals)[len(totals) // 2]
    good = [float(total >= middle) for t, total in zip(found, totals, strict=True) for _ in t["looks"][1:]]
    states, there, shares, rewards, following, last = (torch.stack(column) for column in zip(*rows, strict=True))
    scale = rewards.std().clamp_min(1e-6) if len(rewards) > 1 else rewards.abs().clamp_min(1e-6)[0]
    return Transitions(states, there, shares, rewards / scale, following, last, torch.tensor(good))


def _padded(x: Tensor, most: int) -> Tensor:
    return torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])


def fresh(inputs: int, generator: torch.Generator) -> Network:
    """Weights as He et al. draw them, biases at zero; the last layer small, so that a fresh agent mixes evenly."""
    sizes = {"1": (WIDTH, 2 * inputs), "2": (WIDTH, 2 * WIDTH), "3": (1, WIDTH)}
    drawn = {
        f"weight{n}": torch.randn(size, generator=generator) * math.sqrt(2 / size[1]) * (0.1 if n == "3" else 1.0)
        for n, size in sizes.items()
    }
    return {**drawn, **{f"bias{n}": torch.zeros(size[0]) for n, size in sizes.items()}}


def outputs(net: Network, x: Tensor, there: Tensor) -> Tensor:
    """[..., K] one number a domain; x [..., K, F], there [..., K]."""
    weight = (there / there.sum(-1, keepdim=True))[..., None]
    for n in ("1", "2"):
        beside = (x * weight).sum(-2, keepdim=True).expand_as(x)
        x = torch.nn.functional.silu(
            torch.nn.functional.linear(torch.cat([x, beside], -1), net[f"weight{n}"], net[f"bias{n}"])
        )
    return torch.nn.functional.linear(x, net["weight3"], net["bias3"])[..., 0]


def logits(net: Network, x: Tensor, there: Tensor) -> Tensor:
    return outputs(net, x, there).masked_fill(~there, -torch.inf)


def value(net: Network, x: Tensor, there: Tensor, shares: Tensor) -> Tensor:
    """[...] Q of shares [..., K]."""
    a = shares[..., None]
    each = outputs(net, torch.cat([x, a, (a + 0.05).log()], -1), there)
    return (each * there).sum(-1) / there.sum(-1)


def shares_of(net: Network, t: trajectories.Trajectory) -> list[float]:
    """[K] what the agent gives at the latest look of a trajectory."""
    x = trajectories.seen(t, len(t["looks"]) - 1)
    found: list[float] = logits(net, x, torch.ones(len(x), dtype=torch.bool)).softmax(-1).tolist()
    return found


def fitted(
    found: Sequence[trajectories.Trajectory],
    *,
    balance: float,
    warmup: int,
    updates: int,
    conservatism: float,
    discount: float,
    generator: torch.Generator,
) -> Network:
    """An agent: `warmup` updates of imitation, then `updates` of conservative Q-learning."""
    g = generator
    data = transitions(found, balance)
    features = data.states.shape[-1]
    with torch.enable_grad():
        agent = _trainable(fresh(features, g))
        _imitate(agent, data, warmup, g)
        _improve(agent, data, updates, conservatism, discount, g)
    return {n: p.detach() for n, p in agent.items()}


def _trainable(net: Network) -> Network:
    return {n: p.requires_grad_() for n, p in net.items()}


def _batch(data: Transitions, g: torch.Generator, among: Tensor | None = None) -> Transitions:
    places = torch.arange(len(data.rewards)) if among is None else among
    return data.take(places[torch.randint(len(places), (BATCH,), generator=g)])


def _imitate(agent: Network, data: Transitions, updates: int, g: torch.Generator) -> None:
    """Cross-entropy of the agent's shares with those of the better half of the trajectories."""
    optimizer = torch.optim.Adam(agent.values(), lr=RATE)
    among = data.good.nonzero()[:, 0]
    for _ in range(updates):
        b = _batch(data, g, among)
        told = logits(agent, b.states, b.there).log_softmax(-1).masked_fill(~b.there, 0.0)
        _step(optimizer, -(b.shares * told).sum(-1).mean())


def _improve(
    agent: Network, data: Transitions, updates: int, conservatism: float, discount: float, g: torch.Generator
) -> None:
    """Two critics learn by the Bellman equation and are held down where the trajectories did not go; the agent climbs
    the lower of them.
    """
    inputs = data.states.shape[-1] + 2
    critics = [_trainable(fresh(inputs, g)) for _ in range(2)]
    slow = [{n: p.detach().clone() for n, p in c.items()} for c in critics]
    of_critics = torch.optim.AdamW([p for c in critics for p in c.values()], lr=RATE, weight_decay=DECAY)
    of_agent = torch.optim.Adam(agent.values(), lr=AGENT_RATE)
    for _ in range(updates):
        b = _batch(data, g)
        with torch.no_grad():
            ahead = logits(agent, b.following, b.there).softmax(-1)
            best = torch.minimum(*(value(c, b.following, b.there, ahead) for c in slow))
            wanted = b.rewards + discount * (1 - b.last) * best
            tried = torch.cat([b.shares[None], _others(agent, b, g)])
        loss = torch.zeros(())
        for c in critics:
            states, there = (x[None].expand(len(tried), *x.shape) for x in (b.states, b.there))
            worth = value(c, states, there, tried)
            own, raised = worth[0], worth[1:].logsumexp(0) - math.log(len(tried) - 1)
            loss = loss + (own - wanted).square().mean() + conservatism * (raised - own).mean()
        _step(of_critics, loss)
        mine = logits(agent, b.states, b.there).softmax(-1)
        frozen = [{n: p.detach() for n, p in c.items()} for c in critics]
        worth = torch.minimum(*(value(c, b.states, b.there, mine) for c in frozen))
        _step(of_agent, -(worth / worth.detach().abs().mean().clamp_min(1e-6)).mean())
        with torch.no_grad():
            for c, s in zip(critics, slow, strict=True):
                for n, p in c.items():
                    s[n].lerp_(p, FOLLOW)


def _others(agent: Network, b: Transitions, g: torch.Generator) -> Tensor:
    """[2 SAMPLES, B, K] mixtures drawn evenly, and around the agent's."""
    shape = (SAMPLES, *b.shares.shape)
    even = torch.empty(shape).exponential_(generator=g) * b.there
    near = logits(agent, b.states, b.there)[None] + NOISE * torch.randn(shape, generator=g)
    return torch.cat([even / even.sum(-1, keepdim=True), near.softmax(-1)])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
