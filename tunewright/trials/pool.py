"""Many trials at once: persistent worker processes on this machine, or a Ray cluster (`cluster.py`), with one
interface.

Workers are processes of their own, so that one that dies takes one trial with it: the trial is recorded as killed and
tried once more. Records are in the store as soon as they are made; what is there is not run again, so that a pool that
was stopped anywhere goes on when it is called again.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tunewright.errors import FolderError, TunewrightError
from tunewright.files.home import expanded
from tunewright.machine import host
from tunewright.trials.orders import Landing, Trial, order_of
from tunewright.trials.trial import Store, TrialError, TrialRecord, commit_of, key_of

ATTEMPTS = 2  # of a trial whose process dies
PROCESS = 700 << 20  # bytes of a worker that has imported torch and transformers and loaded nothing
# first guess of a trial's peak: weights, gradients, two moments and activations, in multiples of the weights' file
A_PARAMETER_BYTE = 8


OnRecord = Callable[[TrialRecord], None]


def run_all(
    trials: Sequence[Trial],
    store: Store,
    *,
    workers: int | None = None,
    threads: int = 1,
    memory: int | None = None,
    cluster: str | None = None,
    on_record: OnRecord | None = None,
    pool: Workers | None = None,
) -> dict[str, TrialRecord]:
    """Run what the store does not hold yet; key -> record for all of them, failed and killed ones included.

    `workers`: processes (default: cores // threads). `threads`: torch threads a trial, for recipes that name none.
    `memory`: bytes that all workers together may hold (default: what is free now): fewer trials run side by side where
    the first ones show that they need more. `cluster`: a Ray address, or "local". `on_record` is called here as each
    record lands, for those that were there before too. `pool`: processes to use and to leave running, in place of
    `workers`, `threads` and `memory`. Raises FolderError when the store cannot be written, and MissingExtraError
    without Ray or its cluster.
    """
    records: dict[str, TrialRecord] = {}
    todo: dict[str, Trial] = {}
    for trial in trials:
        key = key_of(trial.recipe)
        if key in records or key in todo:
            continue
        known = store.get(key)
        if known is not None and known.settled:
            records[key] = _land(known, trial, on_record)
        else:
            todo[key] = trial
    if not todo:
        return records
    store.sweep()
    landed: Landing
    if cluster is not None:
        from tunewright.trials.cluster import run_on_ray

        landed = run_on_ray(todo, store, cluster, threads)
    else:
        landed = pool.run(todo, store) if pool is not None else _alone(todo, store, workers, threads, memory)
    with closing(landed):
        for key, record in landed:
            records[key] = _land(record, todo[key], on_record)
    return records


def _alone(todo: dict[str, Trial], store: Store, workers: int | None, threads: int, memory: int | None) -> Landing:
    with Workers(workers, threads, memory) as pool:
        yield from pool.run(todo, store)


def _land(record: TrialRecord, trial: Trial, on_record: OnRecord | None) -> TrialRecord:
    """A record as this caller knows it: an equal trial may have been run under another arm's name."""
    own = record.model_copy(update={"arm": trial.arm, "seed": trial.seed})
    if on_record is not None:
        on_record(own)
    return own


def killed_record(
    key: str, trial: Trial, code: int | None, started: datetime.datetime, attempt: int, said: str = ""
) -> TrialRecord:
    """The record of a trial whose process died.

    SIGKILL that nobody sent is, as a rule, the system's answer to memory running out.
    """
    name = host.ending(code)
    hint = "; the system kills so when memory runs out" if name == "SIGKILL" else ""
    message = f"the worker process died ({name}){hint}" + (f": {said}" if said else "")
    now = datetime.datetime.now(datetime.UTC)
    return TrialRecord(
        key=key,
        arm=trial.arm,
        seed=trial.seed,
        status="killed",
        error=TrialError(type=name, message=message, where=f"attempt {attempt}"),
        started=started,
        seconds=(now - started).total_seconds(),
        recipe=trial.recipe.model_dump(mode="json"),
        commit=commit_of(),
        attempt=attempt,
    )


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    ready: bool = False
    key: str | None = None
    started: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def said(self) -> str:
        """The last line that it wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 400))
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


class Workers:
    """Processes that do trials, kept from one list of trials to the next (`run_all(..., pool=workers)`), so that torch
    is imported once.

    See `run_all` for `workers`, `threads` and `memory`. Use it as a context; its end ends the processes.
    """

    module = "tunewright.trials.worker"

    def __init__(self, workers: int | None = None, threads: int = 1, memory: int | None = None):
        self.asked, self.threads = workers, threads
        self.memory = memory or host.available_memory() or PROCESS
        self.peak = 0  # bytes, the largest of a finished trial
        self.todo: dict[str, Trial] = {}
        self.left: list[str] = []
        self.tries: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}  # arm -> seconds of its trials
        self.processes: list[_Worker] = []
        self.heard: queue.Queue[tuple[_Worker, bytes]] = queue.Queue()  # lines of answers; an empty one is their end

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they do: what they finished is in the store."""
        for worker in list(self.processes):
            self._stop(worker)

    def run(self, todo: dict[str, Trial], store: Store) -> Landing:
        """Do the trials; gives each key and record as it lands. Left before its end, it ends the processes."""
        self.todo, self.left, self.store = todo, list(todo), store
        self.tries = dict.fromkeys(todo, 0)
        widest = max((t.recipe.train.threads or self.threads for t in todo.values()), default=self.threads)
        self.most = max(1, self.asked or host.usable_cores() // max(1, widest))
        done = False
        try:
            yield from self._work()
            done = True
        finally:
            if not done:
                self.close()
            store.sweep()

    def _work(self) -> Landing:
        while self.left or self._busy():
            while len(self.processes) < min(self.allowed(), len(self.left) + self._busy()):
                self._start()
            for worker in self.processes:
                if worker.ready and worker.key is None and self.left and self._busy() < self.allowed():
                    self._give(worker)
            landed = self._hear()
            if landed is not None:
                yield landed
            idle = [w for w in self.processes if w.ready and w.key is None]
            for worker in idle[: max(0, len(self.processes) - self.allowed())]:
                self._stop(worker)

    def _busy(self) -> int:
        return sum(w.key is not None for w in self.processes)

    def allowed(self) -> int:
        """How many trials may run side by side by memory: by the largest peak seen, before that by the weights'
        size.
        """
        each = self.peak or self._guess()
        return max(1, min(self.most, int(self.memory // max(1, each))))

    def _guess(self) -> int:
        names = {(str(t.recipe.base), t.recipe.model.name) for t in self.todo.values() if not t.recipe.model.fresh}
        return PROCESS + A_PARAMETER_BYTE * max((_weights_size(Path(base), name) for base, name in names), default=0)

    def _next(self) -> str:
        """An arm whose time nobody knows first, then the longest one: the short ones fill the end, so that no core
        waits there.
        """
        known = {arm: sum(seconds) / len(seconds) for arm, seconds in self.times.items()}
        running = [self.todo[w.key].arm for w in self.processes if w.key is not None]
        expected = {
            k: known.get(self.todo[k].arm, -1.0 if self.todo[k].arm in running else math.inf) for k in self.left
        }
        best = max(self.left, key=lambda k: expected[k])
        self.left.remove(best)
        return best

    def _start(self) -> None:
        errors = tempfile.TemporaryFile()
        env = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads)),
            "TOKENIZERS_PARALLELISM": "false",
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env,
            # Ctrl-C on the terminal is for this process; the second way is Windows'
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        worker = _Worker(process, errors)
        self.processes.append(worker)
        threading.Thread(target=self._listen, args=[worker], daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        """Queue a worker's answers as they come: a thread, since Windows cannot wait for several pipes at once."""
        assert worker.process.stdout is not None
        with worker.process.stdout as answers:
            for line in answers:
                self.heard.put((worker, line))
        self.heard.put((worker, b""))

    def _give(self, worker: _Worker) -> None:
        key = self._next()
        self.tries[key] += 1
        worker.key, worker.started = key, datetime.datetime.now(datetime.UTC)
        line = json.dumps(order_of(key, self.todo[key], self.store, self.threads)) + "\n"
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(line.encode())
            worker.process.stdin.flush()
        except OSError:
            pass  # it died: its answers' end says so

    def _hear(self) -> tuple[str, TrialRecord] | None:
        """The next answer, once there is one. A short wait at a time: on Windows Ctrl-C does not end it."""
        try:
            worker, line = self.heard.get(timeout=1)
        except queue.Empty:
            return None
        if worker not in self.processes:  # the last words of one that was stopped
            return None
        if not line.endswith(b"\n"):
            return self._died(worker)
        answer = json.loads(line)
        if "ready" in answer:
            worker.ready = True
            return None
        key, worker.key = answer["key"], None
        if "fatal" in answer:
            raise FolderError(answer["fatal"]["what"], where=answer["fatal"]["where"], remedy=answer["fatal"]["remedy"])
        if answer.get("interrupted"):  # somebody asked the worker alone to stop
            self.left.append(key)
            return None
        self.peak = max(self.peak, int(answer.get("peak") or 0))
        record = self.store.get(key)
        if record is None:
            raise FolderError(
                "a trial's record is gone",
                where=str(self.store.folder / key),
                remedy="leave the folder alone while trials run",
            )
        self.times.setdefault(self.todo[key].arm, []).append(record.seconds)
        return key, record

    def _died(self, worker: _Worker) -> tuple[str, TrialRecord] | None:
        """A trial whose process died is recorded, and tried once more by another process."""
        code = worker.process.wait()
        key, said = worker.key, worker.said()
        self._forget(worker)
        if key is None:
            if not worker.ready:
                raise FolderError(
                    f"a worker process cannot start: {said or f'exit code {code}'}",
                    remedy="`tunewright doctor` says what is missing",
                )
            return None
        record = killed_record(key, self.todo[key], code, worker.started, len(self.store.attempts(key)) + 1, said)
        self.store.put(record)
        self.store.sweep()
        if self.tries[key] < ATTEMPTS:
            self.left.append(key)
            return None
        return key, record

    def _stop(self, worker: _Worker) -> None:
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.close()  # the end of its orders ends it
        except OSError:  # it is gone already
            pass
        worker.process.wait()
        self._forget(worker)

    def _forget(self, worker: _Worker) -> None:
        worker.errors.close()
        self.processes.remove(worker)


def _weights_size(base: Path, name: str) -> int:
    """Bytes of a model's weights on this machine; 0 where they are not here yet (the first trial will tell)."""
    from tunewright.files.hashing import weight_files
    from tunewright.loading.locate import locate

    place = base / expanded(name)
    try:
        return sum(
            f.stat().st_size for f in weight_files(place if place.is_dir() else locate(name, progress=False).folder)
        )
    except (TunewrightError, OSError):
        return 0
