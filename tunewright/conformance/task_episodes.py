"""What reinforcement-learning is checked on: episodes in which the action follows from the state."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.conformance.task_case import TaskExample
from tunewright.conformance.task_series import NoReader

STATE, ACTIONS, LONGEST = 3, 3, 16
SIZES: dict[str, Any] = {"hidden_size": 16, "n_layer": 2, "n_head": 2, "max_ep_len": LONGEST, "action_tanh": False}


def decision_transformer(**sizes: Any) -> Any:
    """A decision transformer of two blocks without dropout, of actions to choose from unless `sizes` say otherwise."""
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    own = {"state_dim": STATE, "act_dim": ACTIONS, "initializer_range": 0.2}
    return DecisionTransformerModel(DecisionTransformerConfig(**{**SIZES, **still, **own, **sizes}))


def episode(k: int, *, numbers: bool = False) -> dict[str, Any]:
    """An episode of five steps or more: the action is the largest number's place, or half of the first two numbers."""
    draw = random.Random(k)
    seen = [[round(draw.uniform(-1, 1), 2) for _ in range(STATE)] for _ in range(5 + k % 4)]
    actions: list[Any] = [[0.5 * s[0], 0.5 * s[1]] if numbers else s.index(max(s)) for s in seen]
    return {"observations": seen, "actions": actions, "rewards": [1.0] * len(seen), "terminated": True}


def right(row: Mapping[str, Any]) -> str:
    """What is right of a row, from the row itself."""
    return json.dumps(row["actions"])


def accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    """The share of actions that are right over (said, right) pairs."""
    flat = [(a, b) for said, told in pairs for a, b in zip(json.loads(said), json.loads(told), strict=True)]
    return sum(a == b for a, b in flat) / len(flat)


def reinforcement_learning() -> TaskExample:
    """Eleven episodes, each of one window."""
    whole = episode(0)
    steps = len(whole["rewards"])
    return TaskExample(
        model=decision_transformer,
        reader=NoReader(),
        rows=[episode(k) for k in range(11)],
        bad={
            "fewer rewards than actions": ({**whole, "rewards": [1.0]}, "actions"),
            "an observation of another size": ({**whole, "observations": [[0.1, 0.2]] * steps}, "observations"),
            "an action that there is not": ({**whole, "actions": [7] * steps}, "actions"),
            "actions of another kind": ({**whole, "actions": [[0.5, 0.1]] * steps}, "actions"),
            "a reward that is no number": ({**whole, "rewards": [float("nan")] * steps}, "rewards"),
            "a step of text": ({**whole, "observations": [["a", 0.1, 0.2]] * steps}, "observations"),
            "several episodes in a row": ({**whole, "terminals": [True, *[False] * (steps - 1)]}, "terminals"),
            "more steps than there are times": (
                {"observations": [[0.0] * STATE] * 20, "actions": [0] * 20, "rewards": [1] * 20},
                "observations",
            ),
        },
        right=right,
        figure=accuracy,
    )
