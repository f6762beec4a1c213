"""Episodes that a policy plays: their returns, row by row, an episode a row.

Each episode has a seed of its own, from which its environment begins, so that base and tuned policy play the same ones
and are compared as pairs. The policy takes its likeliest action (of numbers: the one that it says, cut to what the
environment takes), after at most K steps of what it saw, did and was still to get: what it is asked for, less what it
got. Episodes end as their environment says, and after `max_ep_len` steps.

- return: the sum of an episode's rewards.
- normalized_score: 100 (return - random) / (expert - random), as D4RL has it (Fu et al. 2020, "D4RL: Datasets for Deep
  Data-Driven Reinforcement Learning", section 5).

A policy that acts at random plays the same episodes, its actions drawn by the episode's seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.contract.metric import Metric
from tunewright.errors import NonFiniteError, RecipeError
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.environments import WHERE, made
from tunewright.measure.rows import RowResult
from tunewright.tasks import _policies
from tunewright.tasks._parts import DISCRETE, EPISODE, PLAYING
from tunewright.tasks._trajectories import standardised
from tunewright.tasks.base import in_type

TOGETHER = 64
"""Episodes that are played side by side."""
RETURN, SCORE = "return", "normalized_score"


def rows_of(place: Mapping[str, Any], called: str, *, apart: int = 0) -> list[Row]:
    """The episodes of an environment as rows; `apart`: how far their seeds lie from the ones that are written."""
    first = int(place["seed"]) + apart
    out = []
    for seed in range(first, first + int(place["episodes"])):
        fields = {"kind": EPISODE, "place": json.dumps(dict(place), sort_keys=True), "episode": seed}
        out.append(Row(f"{called}:{seed}", called, (), [1.0], fields=fields))
    return out


def play(model: Any, rows: Sequence[Row], metric: Metric) -> list[RowResult]:
    """What a policy gets in each episode. RecipeError for rows that are none, NonFiniteError where it says what is
    no action.
    """
    if bad := next((r for r in rows if r.fields.get("kind") != EPISODE), None):
        raise RecipeError(
            f"a return is got by playing, and the row {bad.id} is no episode",
            where="measurement.metric",
            remedy="name an environment in the recipe (measurement.environment), or write metric: auto",
        )
    how = _policies.options(model.config, None)
    out = list[RowResult]()
    for at in range(0, len(rows), TOGETHER):
        players = [_Player(row, how) for row in rows[at : at + TOGETHER]]
        try:
            with measuring(model):
                while playing := [p for p in players if not p.over]:
                    for player, said in zip(playing, _say(model, playing, how), strict=True):
                        player.act(said)
        finally:
            for player in players:
                player.env.close()
        out += [_result(p.row, p.got, len(p.rewards), p.asked, metric, how) for p in players]
    return out


def at_random(rows: Sequence[Row], metric: Metric, config: Any) -> list[RowResult]:
    """What actions at random get in the same episodes."""
    how = _policies.options(config, None)
    each = [_at_random(r.fields["place"], int(r.fields["episode"]), how["max_ep_len"]) for r in rows]
    return [_result(r, got, steps, None, metric, how) for r, (got, steps) in zip(rows, each, strict=True)]


class _Player:
    """One episode on its way."""

    def __init__(self, row: Row, how: Mapping[str, Any]):
        place = json.loads(row.fields["place"])
        self.row, self.how, self.env = row, how, made(place)
        seen, _ = self.env.reset(seed=int(row.fields["episode"]))
        self.seen, self.actions = [np.asarray(seen, np.float64)], list[Any]()
        self.rewards = list[float]()
        self.asked = float(place["target_return"])
        self.togo, self.over = [self.asked], False

    @property
    def got(self) -> float:
        return float(sum(self.rewards))

    def act(self, said: Tensor) -> None:
        """Do what the policy says, and see what comes of it. `said` [A]."""
        if not bool(torch.isfinite(said).all()):
            raise NonFiniteError("the policy says what is no action", where=self.row.id, remedy="look at its weights")
        space = self.env.action_space
        if self.how["action_space"] == DISCRETE:
            chosen: Any = int(said.argmax())
            self.actions.append(np.eye(self.how["act_dim"])[chosen])
            chosen += int(space.start)
        else:
            chosen = np.clip(said.double().numpy(), space.low, space.high).astype(space.dtype)
            self.actions.append(chosen)
        seen, reward, ended, cut, _ = self.env.step(chosen)
        self.rewards.append(float(reward))
        self.seen.append(np.asarray(seen, np.float64))
        self.togo.append(self.togo[-1] - float(reward))
        self.over = bool(ended or cut) or len(self.rewards) >= self.how["max_ep_len"]


def _say(model: Any, players: Sequence[_Player], how: Mapping[str, Any]) -> Tensor:
    """[R, A] what the policy says of the present step of each episode."""
    lengths = [min(len(p.seen), int(how["context"])) for p in players]
    longest = max(lengths)
    inputs: dict[str, Tensor] = {
        "states": torch.zeros(len(players), longest, how["state_dim"]),
        "actions": torch.zeros(len(players), longest, how["act_dim"]),
        "returns_to_go": torch.zeros(len(players), longest, 1),
        "timesteps": torch.zeros(len(players), longest, dtype=torch.long),
        "attention_mask": torch.zeros(len(players), longest, dtype=torch.long),
    }
    for i, (player, n) in enumerate(zip(players, lengths, strict=True)):
        start = len(player.seen) - n
        inputs["states"][i, :n] = torch.from_numpy(standardised(np.stack(player.seen[start:]), how))
        if n > 1:  # the present step has no action yet, and none is read before it is said
            inputs["actions"][i, : n - 1] = torch.from_numpy(np.stack(player.actions[start:]).astype(np.float32))
        togo = np.array(player.togo[start:]) / float(how["return_scale"])
        inputs["returns_to_go"][i, :n, 0] = torch.from_numpy(togo.astype(np.float32))
        inputs["timesteps"][i, :n] = torch.arange(start, start + n)
        inputs["attention_mask"][i, :n] = 1
    device = device_of(model)
    said = _policies.read(model, in_type(model, {n: x.to(device) for n, x in inputs.items()}))
    last = torch.tensor(lengths) - 1
    return said.actions.float().cpu()[torch.arange(len(players)), last]


def _result(row: Row, got: float, steps: int, asked: float | None, metric: Metric, how: Mapping[str, Any]) -> RowResult:
    place = json.loads(row.fields["place"])
    answer = json.dumps({"return": round(got, 6), "steps": steps})
    ends: dict[str, float] = {}
    if place.get("expert_return") is not None:
        low = place.get("random_return")
        low = _random_mean(row.fields["place"], how["max_ep_len"]) if low is None else low
        ends = {"random": low, "expert": place["expert_return"]}
    told = f"seed {row.fields['episode']}" + (f", asked for a return of {asked:g}" if asked is not None else "")
    reference = json.dumps(ends) if ends else ""  # a return alone is judged by nothing
    assert metric.compare is not None
    score = metric.compare(answer, reference)
    return RowResult(id=row.id, source=row.source, prompt=told, answer=answer, reference=reference, score=score)


@lru_cache(1 << 16)
def _at_random(place: str, seed: int, longest: int) -> tuple[float, int]:
    """(return, steps) of an episode of actions at random."""
    env = made(json.loads(place))
    try:
        env.reset(seed=seed)
        env.action_space.seed(seed)
        got, steps, over = 0.0, 0, False
        while not over and steps < longest:
            _, reward, ended, cut, _ = env.step(env.action_space.sample())
            got, steps, over = got + float(reward), steps + 1, bool(ended or cut)
        return got, steps
    finally:
        env.close()


def _random_mean(place: str, longest: int) -> float:
    """The mean return of actions at random, over the episodes that a recipe has."""
    told = json.loads(place)
    seeds = range(int(told["seed"]), int(told["seed"]) + int(told["episodes"]))
    return float(np.mean([_at_random(place, seed, longest)[0] for seed in seeds]))


def _got(answer: str, reference: str) -> float:
    return float(json.loads(answer)["return"])


def _normalised(answer: str, reference: str) -> float:
    ends = json.loads(reference)
    return 100 * (_got(answer, reference) - ends["random"]) / (ends["expert"] - ends["random"])


def _played(compare: Callable[[str, str], float], beside: str) -> Metric:
    return Metric("played", compare=compare, share=False, bounds=None, tasks=(PLAYING,), beside=(beside,))


EPISODES: dict[str, Metric] = {RETURN: _played(_got, SCORE), SCORE: _played(_normalised, RETURN)}
"""The metrics of episodes by name."""


def scored(names: Sequence[str], reference: str) -> list[str]:
    """Those of some metrics that an episode can be judged by: a normalised score only beside an expert's return."""
    return [n for n in names if n != SCORE or "expert" in json.loads(reference or "{}")]


def check_ends(places: Sequence[Any], metric: str) -> None:
    """RecipeError where a score is asked for and nobody says what an expert gets, or it is what chance gets."""
    for i, place in enumerate(places):
        if metric == SCORE and place.expert_return is None:
            what = "normalized_score is told between random and expert, and nobody says what an expert gets"
            raise RecipeError(what, where=f"{WHERE}[{i}]", remedy="write expert_return: 500, or metric: return")
        if place.expert_return is not None and place.expert_return == place.random_return:
            what = "an expert gets what actions at random get: there is no score between them"
            raise RecipeError(what, where=f"{WHERE}[{i}]", remedy="put one of them right, or leave both out")
