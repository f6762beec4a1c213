"""Policies of transformers: what a decision transformer reads of a window, and what its outputs say of actions.

A step is three tokens: return-to-go, state, action. The action is said at the state's token, so that a policy sees all
before it and never the action itself. Actions to choose from (`act_dim` of them) go in as one-hot vectors and come out
as logits, which wants `action_tanh: false`; others are `act_dim` numbers. transformers' config has no place for what
else a policy's inputs hang on, so that it is kept there under names of its own (`FACTS`): what observations are
standardised by, what returns are divided by, how many steps a window has, what actions are.

Shapes: R rows, K steps of a window, D numbers of an observation, A of an action, H size of the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.models import context
from tunewright.tasks._parts import CONTINUOUS, DISCRETE, FORECASTING, PLAYING

CONTEXT = 20
"""Steps of a window where nobody says how many: those of the paper's runs on Gym and of transformers' examples."""
FACTS = ("action_space", "state_mean", "state_std", "return_scale", "action_std", "context_steps")
"""What a config holds beside transformers' own keys."""
TYPE = "decision_transformer"
STEP = 3
"""Tokens of a step."""


@dataclass(frozen=True)
class Said:
    """What a policy says of windows: `actions` [R, K, A] (logits, or numbers), the `states` [R, K, H] that they are
    read from, all layers' [R, 3K, H].
    """

    actions: Tensor
    states: Tensor
    hidden: tuple[Tensor, ...] | None = None


def gives_values(task: Any, config: Any) -> bool:
    """Whether a task's targets are numbers, of which a model gives no distribution: forecasts, or such actions."""
    plays = task.is_a(PLAYING) and getattr(config, "action_space", None) == CONTINUOUS
    return bool(task.is_a(FORECASTING) or plays)


def read(
    model: nn.Module, inputs: Mapping[str, Tensor], rows: context.Rows | None = None, *, hidden: bool = False
) -> Said:
    """Run a policy over windows: `states` [R, K, D], `actions` [R, K, A], `returns_to_go` [R, K, 1], `timesteps` and
    `attention_mask` [R, K]. `rows`: what is known of them, for changes that ask.
    """
    with context.reading(_laid_out(inputs["attention_mask"], rows or context.Rows())):
        out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    layers = tuple(out.hidden_states) if hidden else None
    return Said(out.action_preds, out.last_hidden_state[:, 1::3], layers)


def _laid_out(mask: Tensor, rows: context.Rows) -> context.Present:
    """Where tokens lie: three a step that is there, by `mask` [R, K], and padding behind them."""
    there = mask.repeat_interleave(STEP, 1).long()
    row = torch.arange(len(there), device=there.device)[:, None].expand(there.shape)
    return context.Present(rows, row, (there.cumsum(1) - 1).masked_fill(there == 0, context.PADDING))


def sizes(config: Any) -> dict[str, int]:
    """Of a model: what its inputs and outputs are as large as."""
    return {name: int(getattr(config, name)) for name in ("state_dim", "act_dim", "max_ep_len")}


def note(config: Any, facts: Mapping[str, Any], where: str = "data.trajectories") -> None:
    """Write into a config what its model's inputs hang on. ModelError for what does not fit the model."""
    for name, count in (("state_mean", "state_dim"), ("state_std", "state_dim"), ("action_std", "act_dim")):
        given = facts.get(name)
        if given is not None and len(given) != getattr(config, count):
            raise ModelError(
                f"{name} has {len(given)} numbers, and the model {getattr(config, count)} ({count})",
                where=where,
                remedy="write one for each",
            )
        if given is not None and name.endswith("std") and not all(x > 0 for x in given):
            raise ModelError(f"{name} holds a number that is not above 0", where=where, remedy="write 1 there")
    if facts.get("action_space") == DISCRETE and config.action_tanh:
        raise ModelError(
            "the rows' actions are numbers of actions, and the model's outputs are between -1 and 1 (action_tanh), "
            "which are no logits",
            where=where,
            remedy="take a model with action_tanh: false, or write actions as lists of numbers",
        )
    for name in FACTS:
        if facts.get(name) is not None:
            setattr(config, name, facts[name])


def missing(config: Any) -> list[str]:
    """Which of the facts a config does not say."""
    out = [n for n in FACTS if getattr(config, n, None) is None and n != "context_steps"]
    return [n for n in out if n != "action_std" or getattr(config, "action_space", None) != DISCRETE]


def options(config: Any, stride: int | None) -> dict[str, Any]:
    """How windows are made for a model whose config says all that they hang on. ModelError where it does not."""
    if lacks := missing(config):
        raise ModelError(
            f"its config.json does not say {', '.join(lacks)}, which its inputs hang on",
            where=str(getattr(config, "_name_or_path", "") or TYPE),
            remedy="run a recipe with it: what is missing is written under data.trajectories, or taken from the rows; "
            "an exported run's model says it",
        )
    context = int(getattr(config, "context_steps", None) or CONTEXT)
    facts = {name: getattr(config, name, None) for name in FACTS if name != "context_steps"}
    return {**sizes(config), **facts, "context": context, "stride": stride or context}


def steps_at_random(config: Any, draw: torch.Generator) -> dict[str, Tensor]:
    """Two windows of random steps, as the model's own forward takes them."""
    count = min(8, int(config.max_ep_len))
    shapes = {"states": config.state_dim, "actions": config.act_dim, "returns_to_go": 1}
    out = {name: torch.randn((2, count, int(size)), generator=draw) for name, size in shapes.items()}
    return {**out, "timesteps": torch.arange(count).expand(2, -1), "attention_mask": torch.ones(2, count).long()}


def whole_window(config: Any) -> int:
    """Numbers of all actions of a window."""
    return int(getattr(config, "context_steps", None) or CONTEXT) * int(config.act_dim)


def moved(actions: Tensor, mask: Tensor, std: Tensor) -> Tensor:
    """[R, K A] of actions [R, K, A] in standard deviations [R, A], whose mean of squares is that over the steps that
    there are (`mask` [R, K]).
    """
    share = mask.shape[1] / mask.sum(1).clamp(min=1)
    return (actions / std[:, None] * mask[..., None] * share.sqrt()[:, None, None]).flatten(1)
