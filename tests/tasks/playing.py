"""What tests of policies share: rows as they are encoded, and a folder with a model and episodes to run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_episodes import decision_transformer, episode
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.data.trajectories import trajectory_of
from tunewright.tasks import _policies, get_task
from tunewright.tasks._trajectories import windows

TASK = get_task("reinforcement-learning")
SAYS = {"state_mean": [0.1, -0.2, 0.3], "state_std": [0.5, 0.6, 0.7], "return_scale": 10.0}
CART = {"state_dim": 4, "act_dim": 2, "max_ep_len": 30}


def policy(*, numbers: bool = False, context: int = 4, **sizes: Any) -> Any:
    """A policy whose config says all that its inputs hang on."""
    sizes = {"act_dim": 2, **sizes} if numbers else sizes
    model = seeded(lambda: decision_transformer(**sizes)).eval()
    wide = model.config.state_dim
    says = {n: v[:wide] + [1.0] * (wide - 3) if isinstance(v, list) else v for n, v in SAYS.items()}
    more = {"action_space": "continuous", "action_std": [0.5, 2.0][: model.config.act_dim]}
    more = more if numbers else {"action_space": "discrete"}
    _policies.note(model.config, {**says, **more, "context_steps": context})
    return model


def rows_of(model: Any, episodes: list[dict[str, Any]], stride: int | None = None) -> list[Any]:
    """The windows of some episodes as rows."""
    how = _policies.options(model.config, stride)
    made = [(f"r:{k}", w) for k, e in enumerate(episodes) for w in windows(trajectory_of(e), f"r:{k}", how)]
    options = EncodeOptions(trajectories=how)
    return [TASK.encode(Record({"window": w}, id=f"{n}@{w.start}", source="s"), None, options) for n, w in made]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def carts(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Episodes of CartPole that lean where the pole leans."""
    import gymnasium

    env, out = gymnasium.make("CartPole-v1", max_episode_steps=20), []
    for k in range(first, first + count):
        seen, _ = env.reset(seed=k)
        told: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
        over = False
        while not over:
            told["observations"].append([round(float(x), 4) for x in seen])
            told["actions"].append(int(seen[2] + seen[3] > 0) if k % 3 else k % 2)
            seen, reward, ended, cut, _ = env.step(told["actions"][-1])
            told["rewards"].append(float(reward))
            over = ended or cut
        out.append({**told, "terminated": bool(ended)})
    return out


__all__ = ["CART", "SAYS", "TASK", "carts", "episode", "policy", "rows_of", "write"]
