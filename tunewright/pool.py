"""Many trials at once: persistent worker processes on this machine, or a Ray cluster (`cluster.py`), with one interface.

Workers are processes of their own, so that one that dies takes one trial with it: the trial is recorded as killed and
tried once more. Records are in the store as soon as they are made; what is there is not run again, so that a pool that was
stopped anywhere goes on when it is called again.
"""

from __future__ import annotations

import datetime
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tunewright.errors import FolderError
from tunewright.recipe import Recipe
from tunewright.trials import Store, TrialError, TrialRecord, commit_of, key_of

ATTEMPTS = 2  # of a trial whose process dies
PROCESS = 700 << 20  # bytes of a worker that has imported torch and transformers and loaded nothing
A_PARAMETER_BYTE = 8  # first guess of a trial's peak: weights, gradients, two moments and activations, in multiples of the weights' file


@dataclass(frozen=True)
class Trial:
    """One recipe to run, as an arm (a method or group of methods) with a seed."""

    arm: str
    seed: int
    recipe: Recipe


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
) -> dict[str, TrialRecord]:
    """Run what the store does not hold yet; key -> record for all of them, failed and killed ones included.

    `workers`: processes (default: cores // threads). `threads`: torch threads a trial, for recipes that name none. `memory`: bytes that
    all workers together may hold (default: what is free now): fewer trials run side by side where the first ones show that they need more.
    `cluster`: a Ray address, or "local". `on_record` is called here as each record lands, for those that were there before too.
    Raises FolderError when the store cannot be written, and MissingExtraError without Ray or its cluster.
    """
    found: dict[str, TrialRecord] = {}
    todo: dict[str, Trial] = {}
    for trial in trials:
        key = key_of(trial.recipe)
        if key in found or key in todo:
            continue
        known = store.get(key)
        if known is not None and known.settled:
            found[key] = _land(known, trial, on_record)
        else:
            todo[key] = trial
    if not todo:
        return found
    store.sweep()
    if cluster is not None:
        from tunewright.cluster import run_on_ray

        landed = run_on_ray(todo, store, cluster, threads)
    else:
        landed = _Pool(todo, store, workers, threads, memory).run()
    for key, record in landed:
        found[key] = _land(record, todo[key], on_record)
    return found


def _land(record: TrialRecord, trial: Trial, on_record: OnRecord | None) -> TrialRecord:
    """A record as this caller knows it: an equal trial may have been run under another arm's name."""
    own = record.model_copy(update={"arm": trial.arm, "seed": trial.seed})
    if on_record is not None:
        on_record(own)
    return own


def order_of(key: str, trial: Trial, store: Store, threads: int) -> dict[str, Any]:
    """What a worker is told: JSON values alone."""
    import yaml

    recipe = yaml.safe_load(trial.recipe.dump(absolute=True))
    return {"key": key, "arm": trial.arm, "recipe": recipe, "base": str(trial.recipe.base), "store": str(store.folder.resolve()), "threads": threads}


def killed_record(key: str, trial: Trial, code: int | None, started: datetime.datetime, attempt: int, said: str = "") -> TrialRecord:
    """The record of a trial whose process died. SIGKILL that nobody sent is, as a rule, the system's answer to memory running out."""
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
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
    answers: IO[bytes]
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


class _Pool:
    """The trials that are left, and the processes that do them."""

    def __init__(self, todo: dict[str, Trial], store: Store, workers: int | None, threads: int, memory: int | None):
        self.todo, self.store, self.threads = todo, store, threads
        self.left = deque(todo)
        widest = max((t.recipe.train.threads or threads for t in todo.values()), default=threads)
        cores = len(os.sched_getaffinity(0))
        self.most = max(1, min(workers or cores // max(1, widest), len(todo)))
        self.memory = memory or available_memory()
        self.peak = 0
        self.tries: dict[str, int] = dict.fromkeys(todo, 0)
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()

    def run(self) -> Iterable[tuple[str, TrialRecord]]:
        try:
            yield from self._work()
        finally:
            self._end()

    def _work(self) -> Iterable[tuple[str, TrialRecord]]:
        wanted = self.allowed()
        while self.left or any(w.key for w in self.workers):
            while len(self.workers) < min(self.allowed(), len(self.left) + sum(w.key is not None for w in self.workers)):
                self._start()
            for worker in self.workers:
                if worker.ready and worker.key is None and self.left and sum(w.key is not None for w in self.workers) < self.allowed():
                    self._give(worker)
            wanted = self.allowed()
            for event, _ in self.selector.select(timeout=60):
                landed = self._hear(event.data)
                if landed is not None:
                    yield landed
            for worker in [w for w in self.workers if w.ready and w.key is None][: max(0, len(self.workers) - wanted)]:
                self._stop(worker)

    def allowed(self) -> int:
        """How many trials may run side by side by memory: by the largest peak seen, before that by the weights' size."""
        each = self.peak or self._guess()
        return max(1, min(self.most, int(self.memory // max(1, each))))

    def _guess(self) -> int:
        from tunewright.models.hashing import weight_files

        largest = 0
        for trial in self.todo.values():
            place = trial.recipe.base / trial.recipe.model.name
            try:
                largest = max(largest, sum(f.stat().st_size for f in weight_files(place)))
            except Exception:
                continue  # not a folder: the first trial will tell
        return PROCESS + A_PARAMETER_BYTE * largest

    def _start(self) -> None:
        import tempfile

        reading, writing = os.pipe()
        errors = tempfile.TemporaryFile()  # lives as long as the worker
        env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads)), "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tunewright._worker", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[writing],
            env=env,
        )
        os.close(writing)
        worker = _Worker(process, os.fdopen(reading, "rb"), errors)
        self.workers.append(worker)
        self.selector.register(worker.answers, selectors.EVENT_READ, worker)

    def _give(self, worker: _Worker) -> None:
        key = self.left.popleft()
        self.tries[key] += 1
        worker.key, worker.started = key, datetime.datetime.now(datetime.UTC)
        line = json.dumps(order_of(key, self.todo[key], self.store, self.threads)) + "\n"
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(line.encode())
            worker.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: its answers' end says so

    def _hear(self, worker: _Worker) -> tuple[str, TrialRecord] | None:
        line = worker.answers.readline()
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
            raise FolderError("a trial's record is gone", where=str(self.store.folder / key), remedy="leave the folder alone while trials run")
        return key, record

    def _died(self, worker: _Worker) -> tuple[str, TrialRecord] | None:
        """A trial whose process died is tried once more, after the others."""
        code = worker.process.wait()
        key, said = worker.key, worker.said()
        self._forget(worker)
        if key is None:
            if not worker.ready:
                raise FolderError(f"a worker process cannot start: {said or f'exit code {code}'}", remedy="`tunewright doctor` says what is missing")
            return None
        record = killed_record(key, self.todo[key], code, worker.started, self.tries[key], said)
        self.store.put(record)
        self.store.sweep()
        if self.tries[key] < ATTEMPTS:
            self.left.append(key)
            return None
        return key, record

    def _forget(self, worker: _Worker) -> None:
        self.selector.unregister(worker.answers)
        worker.answers.close()
        worker.errors.close()
        self.workers.remove(worker)

    def _stop(self, worker: _Worker) -> None:
        assert worker.process.stdin is not None
        worker.process.stdin.close()  # the end of its orders ends it
        worker.process.wait()
        self._forget(worker)

    def _end(self) -> None:
        for worker in list(self.workers):
            try:
                self._stop(worker)
            except BrokenPipeError:
                self._forget(worker)
        self.selector.close()
        self.store.sweep()


def available_memory() -> int:
    """Bytes that can be had now: what the system says is available, within the limit of the control group where there is one."""
    found = []
    try:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    except (OSError, StopIteration, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            found.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return min(found)
