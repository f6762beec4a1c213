"""The tools that `train.report_to` may name. Each is imported when a run names it, in a thread of its own.

Where a tool keeps its files, and whether it sends them anywhere, is its own affair and that of its environment
variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR ...). A run is found again by a name that is made of its folder
and of when it began, so that a stage or a resumed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunewright.runs.folder import PROGRESS, RECIPE

_LOG = logging.getLogger(__name__)
PROJECT = "tunewright"
UPLOAD = 8.0
"""Seconds that W&B's own end waits for what is not sent; it stays on disk, for `wandb sync`."""
LONGEST = 500
"""Characters of a parameter; MLflow takes no more."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run. `first_step`: over the whole run, the one to go on from."""

    folder: Path
    first_step: int = 0

    @property
    def name(self) -> str:
        """The folder's name, as people know the run."""
        return self.folder.resolve().name

    @property
    def key(self) -> str:
        """Eight letters and digits that no other run has: another run in a folder of the same name is another one."""
        try:
            began = str(json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))["started"])
        except (OSError, ValueError, KeyError, TypeError):
            began = ""
        return hashlib.sha256(f"{self.folder.resolve()} {began}".encode(errors="replace")).hexdigest()[:8]

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        import yaml

        try:
            return dict(yaml.safe_load((self.folder / RECIPE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            return {}


class Tracker(Protocol):
    """What a tracker does: one call a record, and one at the end."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def lacking(names: Sequence[str]) -> dict[str, str]:
    """Of trackers, those that are not installed, and what to say of each. Imports nothing."""
    out = {}
    for name in dict.fromkeys(names):
        there = sys.modules[name] is not None if name in sys.modules else importlib.util.find_spec(name) is not None
        if not there:
            extra = "track" if name == "tensorboard" else name
            install = f'pip install "tunewright[{extra}]"'
            out[name] = (
                f"train.report_to names {name}, which is not installed: metrics.jsonl has every record ({install})"
            )
    return out


class TensorBoard:
    """Event files in the run's folder under tensorboard/.

    A resumed run goes on from its step: what came after is hidden.
    """

    def __init__(self, run: Tracked):
        from torch.utils.tensorboard.writer import SummaryWriter

        hidden = run.first_step + 1 if run.first_step else 0
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=hidden)  # type: ignore[no-untyped-call]

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


class WandB:
    """Weights & Biases, its files in the run's folder under wandb/ (WANDB_DIR: elsewhere). Who is not logged in gets
    the run offline; `wandb sync` sends it. WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE are read.
    """

    def __init__(self, run: Tracked):
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.login(prompt=False):
            _LOG.warning("not logged in to W&B: the run is kept offline, and `wandb sync` sends it")
            mode = "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.key,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=run.recipe(),
            mode=mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, finish_timeout=UPLOAD),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow, where MLFLOW_TRACKING_URI says, else where it keeps runs by itself; MLFLOW_EXPERIMENT_NAME is read."""

    TAG = "tunewright.run"

    def __init__(self, run: Tracked):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{self.TAG}` = '{run.key}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, run_name=run.name, tags={self.TAG: run.key}).info.run_id
        params = [Param(key, value[:LONGEST]) for key, value in flat(run.recipe()).items() if value]
        for first in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self._id, params=params[first : first + 100])

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """trackio, in TRACKIO_DIR or where it keeps runs by itself (`trackio show`); TRACKIO_PROJECT names the project."""

    def __init__(self, run: Tracked):
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):  # standard output is the run's own
            module.print = _aside  # type: ignore[attr-defined]
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.key}",
            config=run.recipe(),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _aside(*words: Any, **options: Any) -> None:
    print(*words, **{**options, "file": sys.stderr})


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Leaves of a recipe by their path with points, as texts."""
    if isinstance(tree, Mapping):
        pairs = list(tree.items())
    elif isinstance(tree, list):
        pairs = list(enumerate(tree))
    else:
        return {prefix.rstrip("."): str(tree)}
    return {k: v for key, value in pairs for k, v in flat(value, f"{prefix}{key}.").items()}


TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
