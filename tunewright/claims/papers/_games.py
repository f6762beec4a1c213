"""A small policy that knows one game and learns two more, for claims about sequences of games.

Scripts play gymnasium's CartPole, MountainCar and Acrobot, a tenth of whose actions is drawn at random. Observations
are brought to one size and to six numbers, actions to three, so that one decision transformer plays all. It has learnt
CartPole; the other two come one after the other. Nobody tells it which game it plays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.files.cache import cache_folder

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

WIDTH, LONGEST, NOISE = 6, 100, 0.1


@dataclass(frozen=True)
class Game:
    """An environment, the script that plays it, and what its observations are divided by."""

    environment: str
    script: Callable[[Any], int]
    scale: tuple[float, ...]


GAMES = {
    "cart": Game("CartPole-v1", lambda x: int(0.1 * x[0] + 0.3 * x[1] + x[2] + x[3] > 0), (1.0, 1.0, 0.1, 1.0)),
    "hill": Game("MountainCar-v0", lambda x: 2 if x[1] >= 0 else 0, (0.5, 0.03)),
    "swing": Game("Acrobot-v1", lambda x: 2 if x[5] * np.sign(x[2]) > 0 else 0, (1.0, 1.0, 1.0, 1.0, 3.0, 3.0)),
}
FIRST, LATER = "cart", ("hill", "swing")
LEARNT, JUDGED = 24, 8
"""Episodes of a game that are learnt from, and that are judged."""
CONFIG = {
    "model_type": "decision_transformer",
    "state_dim": WIDTH,
    "act_dim": 3,
    "max_ep_len": LONGEST,
    "action_tanh": False,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
TRAIN: dict[str, Any] = {"precision": "float32", "threads": 1, "device": "cpu", "batch_tokens": 960}


def _episodes(game: Game, count: int, seed: int) -> Iterator[dict[str, Any]]:
    from tunewright.measure.environments import made

    env = made({"id": game.environment, "arguments": {"max_episode_steps": LONGEST}})
    for k in range(count):
        draw = np.random.default_rng([seed, k])
        seen, _ = env.reset(seed=seed + k)
        told: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
        over = ended = False
        while not over:
            action = int(draw.integers(env.action_space.n)) if draw.random() < NOISE else game.script(seen)
            sized = np.zeros(WIDTH)
            sized[: len(seen)] = np.asarray(seen) / game.scale
            told["observations"].append([round(float(x), 5) for x in sized])
            told["actions"].append(action)
            seen, reward, ended, cut, _ = env.step(action)
            told["rewards"].append(float(reward))
            over = ended or cut
        yield {**told, "terminated": bool(ended)}
    env.close()


def _written(name: str, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = cache_folder() / "lab" / f"games-{hashlib.sha256(text.encode()).hexdigest()[:16]}" / f"{name}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{name}.{os.getpid()}.partial")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    return str(path)


@cache
def files() -> dict[str, str]:
    """Episodes of each game to learn from, and `eval`: episodes of all."""
    out, judged = {}, []
    for i, (name, game) in enumerate(GAMES.items()):
        out[name] = _written(name, list(_episodes(game, LEARNT, 1_000 * i)))
        judged += list(_episodes(game, JUDGED, 1_000 * i + 500))
    return {**out, "eval": _written("eval", judged)}


@cache
def base() -> str:
    """The folder of a policy that plays the first game, made once from nothing."""
    from tunewright.finished.export import export
    from tunewright.runs.run import run

    learnt = files()[FIRST]
    folder = cache_folder() / "lab" / f"games-base-{hashlib.sha256(learnt.encode()).hexdigest()[:16]}"
    if not (folder / "model").is_dir():
        recipe = {
            "name": "games",
            "model": {"config": CONFIG},
            "task": "reinforcement-learning",
            "data": {
                "train": learnt,
                "trajectories": {
                    **{"context": 10, "return_scale": 100.0, "action_space": "discrete"},
                    **{"state_mean": [0.0] * WIDTH, "state_std": [1.0] * WIDTH},
                },
            },
            "methods": ["full"],
            "train": {**TRAIN, "learning_rate": 3e-3},
            "budget": {"epochs": 6},
            "measurement": {"strengths": [1.0]},
        }
        with tempfile.TemporaryDirectory() as work:
            done = run(recipe, Path(work) / "run", quiet=True)
            export(done.folder, Path(work) / "model", quiet=True)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(work) / "model", folder / "model")
    return str(folder / "model")


def played(run: ClaimRun, arm: str, seed: int, **more: Any) -> Any:
    """The record of a run of an arm's methods over both later games, judged on all three."""
    data, start = files(), "base"
    stages: list[dict[str, Any]] = []
    for game in LATER:
        stages.append(
            {
                "name": game,
                "start": start,
                "carry": "training" if start != "base" else "fold",
                "methods": run.arm(arm).methods,
                "data": {"train": [{"path": data[game], "name": game}]},
                "train": {"learning_rate": 3e-3, "batch_tokens": 960},
                "budget": {"epochs": 12},
            }
        )
        start = f"stages.{game}"
    given = {
        "train": [{"path": data[LATER[0]], "name": "train"}],
        "eval": [{"path": data["eval"], "name": "eval"}],
        "validation": None,
    }
    return run.trial(arm, seed, model=base(), task="reinforcement-learning", data=given, stages=stages, **more)
