"""The real run of policies: poles on carts (gymnasium's CartPole), and then on a cart that is pushed the other way.

No small pre-trained decision transformer may be passed on, so one is made first, from nothing, of episodes that scripts
play: controllers of several gains, a part of whose actions is drawn at random. It then learns from a few episodes of a
cart whose motor is wired the other way round, where what it knows is wrong: nothing that it sees tells it which cart it
is on, so that what it gains on one it loses on the other. Both carts are played afterwards, the same 20 episodes by
base and tuned policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

TASK = "reinforcement-learning"
ENVIRONMENT, LONGEST, PUSH = "CartPole-v1", 200, 10.0
GAINS = ((0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0), (0.1, 0.3, 1.0, 1.0))
"""How much a script's push follows the cart's place and speed, the pole's angle and its speed."""
NOISE = (0.0, 0.2, 0.5, 1.0)
"""Shares of a script's actions that are drawn at random."""
CONFIG = {
    "model_type": "decision_transformer",
    "state_dim": 4,
    "act_dim": 2,
    "max_ep_len": LONGEST,
    "action_tanh": False,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
TRAIN: dict[str, Any] = {"precision": "float32", "seed": 0, "threads": 1, "batch_tokens": 960}


def episodes(count: int, seed: int, push: float, gains: Sequence[Sequence[float]]) -> Iterator[dict[str, Any]]:
    """Episodes that scripts play; a script for a cart that is pushed the other way pushes the other way."""
    env: Any = gymnasium.make(ENVIRONMENT, max_episode_steps=LONGEST)
    env.unwrapped.force_mag = push
    for k in range(count):
        draw, gain, noise = np.random.default_rng([seed, k]), np.array(gains[k % len(gains)]), NOISE[k % len(NOISE)]
        seen, _ = env.reset(seed=seed + k)
        told: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
        over = ended = False
        while not over:
            action = int(gain @ seen > 0) if push > 0 else int(gain @ seen <= 0)
            action = int(draw.integers(2)) if draw.random() < noise else action
            told["observations"].append([round(float(x), 5) for x in seen])
            told["actions"].append(action)
            seen, reward, ended, cut, _ = env.step(action)
            told["rewards"].append(float(reward))
            over = ended or cut
        yield {**told, "terminated": bool(ended)}
    env.close()


def files(out: Path) -> dict[str, str]:
    """Files of episodes of both carts, to learn from and to measure on."""
    out.mkdir(parents=True, exist_ok=True)
    made = {
        "cart-train": episodes(48, 0, PUSH, GAINS),
        "cart-test": episodes(12, 1_000, PUSH, GAINS),
        "other-train": episodes(24, 2_000, -PUSH, GAINS),
        "other-test": episodes(12, 3_000, -PUSH, GAINS),
    }
    for name, rows in made.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {name: str(out / f"{name}.jsonl") for name in made}


def place(name: str, push: float) -> dict[str, Any]:
    """A cart to play with; an expert holds the pole to the end."""
    how = {"episodes": 20, "target_return": LONGEST, "expert_return": LONGEST}
    how |= {"arguments": {"max_episode_steps": LONGEST}, "attributes": {"force_mag": push}}
    return {"id": ENVIRONMENT, "name": name, **how}


def first(made: dict[str, str]) -> dict[str, Any]:
    """The recipe of the policy that is made from nothing."""
    return {
        "model": {"config": CONFIG},
        "task": TASK,
        "data": {"train": made["cart-train"], "eval": made["cart-test"]},
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 3e-3},
        "budget": {"epochs": 4},
        "measurement": {"strengths": [1], "environment": place("the cart", PUSH)},
    }


def second(model: str, made: dict[str, str]) -> dict[str, Any]:
    """The recipe by which it learns the cart that is pushed the other way."""
    return {
        "model": model,
        "task": TASK,
        "data": {"train": made["other-train"], "eval": made["other-test"]},
        "keep": [{"data": made["cart-test"], "name": "the first cart"}],
        "methods": [{"lora": {"rank": 8}}],
        "train": {**TRAIN, "learning_rate": 5e-3},
        "budget": {"epochs": 12},
        "measurement": {
            "strengths": [1],
            "environment": [place("the other cart", -PUSH), place("the first cart", PUSH)],
        },
    }
