"""Trials on a Ray cluster (extra `cluster`): Ray places them, and does again what a lost worker or node took with it.

Every node needs the package, and the recipe's files and models under the same paths (a shared file system). What
travels is JSON text: the recipe out, the record back; this process writes the records into the store, whole or not at
all.
"""

from __future__ import annotations

import datetime
import json
import socket
from collections.abc import Mapping
from typing import Any

from tunewright.errors import FolderError, MissingExtraError
from tunewright.machine.host import usable_cores
from tunewright.trials.orders import Landing, Trial, order_of
from tunewright.trials.trial import Store, TrialError, TrialRecord, commit_of

LOCAL = "local"
RETRIES = 1  # by Ray, of a trial whose worker or node died
WAIT = 5.0  # seconds for a cluster to answer


def trial_on_node(order: str) -> str:
    """One trial on whatever machine this is; JSON in and out. Its folder is thrown away, the record goes home."""
    import tempfile
    from pathlib import Path

    from tunewright.recipe import Recipe
    from tunewright.trials.trial import run_trial

    fields = json.loads(order)
    with tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
        recipe = Recipe(**fields["recipe"])
        recipe._base = Path(fields["base"])
        return run_trial(
            recipe, Store(folder), arm=fields["arm"], key=fields["key"], threads=fields["threads"]
        ).model_dump_json()


def run_on_ray(todo: Mapping[str, Trial], store: Store, address: str, threads: int) -> Landing:
    """Do the trials on the cluster at `address` ("local": one on this machine, for as long as this takes).

    MissingExtraError when Ray is not installed or nothing answers there.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        remote = ray.remote(trial_on_node)
        asked: dict[Any, str] = {}
        for key, trial in todo.items():
            order = json.dumps(order_of(key, trial, store, threads))
            asked[remote.options(num_cpus=trial.recipe.train.threads or threads, max_retries=RETRIES).remote(order)] = (
                key
            )
        started = datetime.datetime.now(datetime.UTC)
        while asked:
            ready, _ = ray.wait(list(asked), num_returns=1)
            for reference in ready:
                key = asked.pop(reference)
                yield key, _land(ray, reference, key, todo[key], store, started)
    finally:
        if own:
            ray.shutdown()


def _land(ray: Any, reference: Any, key: str, trial: Trial, store: Store, started: datetime.datetime) -> TrialRecord:
    try:
        record = TrialRecord.model_validate_json(ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # ours, from the node: nothing of the trial's own ends so
        raise FolderError(
            f"a node cannot run trials: {str(error.cause or error).splitlines()[-1]}",
            remedy="check the node's disk and package",
        ) from error
    except ray.exceptions.RayError as error:
        record = _lost(error, key, trial, started)
    store.put(record)
    return record


def _lost(error: Exception, key: str, trial: Trial, started: datetime.datetime) -> TrialRecord:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    now = datetime.datetime.now(datetime.UTC)
    return TrialRecord(
        key=key,
        arm=trial.arm,
        seed=trial.seed,
        status="killed",
        error=TrialError(
            type=type(error).__name__,
            message=f"lost on the cluster, {RETRIES + 1} times: {first[:400]}",
            where="cluster",
        ),
        started=started,
        seconds=(now - started).total_seconds(),
        recipe=trial.recipe.model_dump(mode="json"),
        commit=commit_of(),
        attempt=RETRIES + 1,
    )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "a cluster needs Ray, which is not installed", where="--cluster", remedy="pip install 'tunewright[cluster]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    import logging

    quiet = {"configure_logging": True, "logging_level": logging.ERROR, "log_to_driver": False}
    remedy = (
        "start one (`ray start --head`) and give its address as host:port, or leave --cluster out to run on "
        "this machine"
    )
    if address == LOCAL:
        ray.init(num_cpus=usable_cores(), include_dashboard=False, **quiet)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise MissingExtraError(
            f"'{address}' is no cluster's address",
            where="--cluster",
            remedy=f"write host:port, ray://host:port or {LOCAL}",
        )
    try:
        socket.create_connection((host, int(port)), WAIT).close()
    except OSError as error:
        raise MissingExtraError(
            f"no cluster answers at {address}: {error.strerror or error}", where="--cluster", remedy=remedy
        ) from error
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises many kinds here
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MissingExtraError(
            f"the cluster at {address} cannot be used: {first}", where="--cluster", remedy=remedy
        ) from error
