"""Which jobs train, and what becomes of them: a thread that starts workers, watches them and notes how they end.

A worker is a process of its own. It outlives its server: the next one knows it again by the lock that it holds, and a
job whose worker is gone goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunewright.files.cache import written_aside
from tunewright.machine import host
from tunewright.runs.folder import RunFolder
from tunewright.serve.jobs import worker
from tunewright.serve.jobs.files import RESULTS, Files, copied
from tunewright.serve.jobs.limits import JobLimits
from tunewright.serve.jobs.store import ACTIVE, Json, Store

log = logging.getLogger(__name__)
TICK = 0.2
GRACE = 5.0
"""Seconds between asking a cancelled worker to end and ending it."""
COMMAND: Sequence[str] = [sys.executable, "-P", "-m", "tunewright.serve.jobs.worker"]
SECRETS = ("TUNEWRIGHT_API_KEY",)


class Supervisor:
    """Runs the queue of `store`; `models` is the folder that finished adapters are put into, `publish` is told of
    each."""

    def __init__(
        self, store: Store, files: Files, models: Path, limits: JobLimits, publish: Callable[[str], None] | None = None
    ):
        models.mkdir(parents=True, exist_ok=True)
        self.store, self.files, self.models, self.limits = store, files, models, limits
        self._publish = publish or (lambda name: None)
        self._mine: dict[str, subprocess.Popen[bytes]] = {}
        self._asked: dict[str, float] = {}
        self._logged: dict[str, set[tuple[str, int]]] = {}
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tunewright-jobs", daemon=True)

    def start(self) -> None:
        """Begin: jobs that an earlier server left are gone on with."""
        self._thread.start()

    def stop(self) -> None:
        """Look after jobs no more. Workers go on."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for job in self.store.jobs(*ACTIVE):
                self._guarded(job, self._look)
            room = self.limits.at_once - len(self.store.jobs(*ACTIVE))
            for job in self.store.jobs("queued")[: max(0, room)]:
                self._guarded(job, self._begin)
            self._wake.wait(TICK)
            self._wake.clear()

    def _guarded(self, job: Json, what: Callable[[Json], None]) -> None:
        try:
            what(job)
        except Exception as error:
            log.exception("job %s", job["id"])
            self._end(job, "failed", error=_error("server_error", f"The server failed on it ({type(error).__name__})."))

    # -- a worker's life --------------------------------------------------------------------------------------------

    def _begin(self, job: Json) -> None:
        place = self.store.place(job["id"])
        (place / worker.PHASE).unlink(missing_ok=True)
        status = "running" if (place / worker.SETTLED).exists() else "validating_files"
        with self.store.lock:
            if self.store.find(job["id"])["status"] != "queued":  # cancelled or paused since the queue was read
                return
            self.store.change(job["id"], status=status)
        self.store.say(job["id"], "The worker starts." if not job["attempts"] else "The worker goes on.")
        with open(place / "log.txt", "ab") as out:
            self._mine[job["id"]] = subprocess.Popen(
                [*COMMAND, str(place)],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k not in SECRETS},
            )

    def _look(self, job: Json) -> None:
        given, place = job["id"], self.store.place(job["id"])
        own = self._mine.get(given)
        code = own.poll() if own is not None else None
        alive = code is None if own is not None else self._lives(place)
        if code == worker.TAKEN:  # another process has the job: an earlier server's worker
            self._mine.pop(given)
            return
        self._note_phase(job, place)
        self._note_metrics(given, place)
        if alive:
            if job["wanted"] is not None:
                self._ask_to_end(job, place)
            return
        self._mine.pop(given, None)
        self._asked.pop(given, None)
        self._ended(given, place, code)

    def _lives(self, place: Path) -> bool:
        """Whether an earlier server's worker does the job: it holds a lock until it ends, however it does. Only looked
        at: one that begins just now must be able to take it.
        """
        return host.is_locked(place / worker.LOCK)

    def _process(self, job: Json, place: Path) -> int | None:
        """The worker's number; None where it has not said it yet, or the number is another process's by now."""
        own = self._mine.get(job["id"])
        if own is not None:
            return own.pid
        try:
            marked = (place / worker.PROCESS).read_text(encoding="utf-8")
            return None if host.is_gone(marked) else int(marked.partition("-")[0])
        except (OSError, ValueError):
            return None

    def _ask_to_end(self, job: Json, place: Path) -> None:
        process, now = self._process(job, place), time.monotonic()
        if process is None:
            return
        since = self._asked.get(job["id"])
        if since is None:
            self._asked[job["id"]] = now
            _signal(process, signal.SIGINT if job["wanted"] == "pause" else signal.SIGTERM)
        elif job["wanted"] == "cancel" and now - since > GRACE:
            _signal(process, signal.SIGKILL)

    def _ended(self, given: str, place: Path, code: int | None) -> None:
        report = place / worker.RUN / "report.json"
        failure = _json(place / worker.ERROR)
        with self.store.lock:  # what a client wants meanwhile comes before this, or finds what became of the job
            job = self.store.find(given)
            if job["wanted"] == "cancel":
                return self._end(job, "cancelled")
            if not report.is_file():
                return self._unfinished(job, failure, code)
        self._succeeded(job, place)

    def _unfinished(self, job: Json, failure: Json | None, code: int | None) -> None:
        """A job whose worker left no report."""
        if failure is not None:
            self._end(job, "failed", error=failure)
        elif job["wanted"] == "pause":
            self.store.change(job["id"], status="paused", wanted=None)
            self.store.say(job["id"], "The job is paused.")
        elif job["attempts"] + 1 >= self.limits.attempts:
            how = host.ending(code) if code is not None else "for a reason that is not known"
            self._end(job, "failed", error=_error("worker_ended", f"The worker ended {how}, several times."))
        else:
            self.store.change(job["id"], status="queued", attempts=job["attempts"] + 1)
            self.store.say(job["id"], "The worker ended before the job was done; it goes on.", "warn")

    def _end(self, job: Json, status: str, error: Json | None = None, **more: Any) -> None:
        message = {"succeeded": "The job is done.", "cancelled": "The job is cancelled."}.get(status)
        values = {"status": status, "wanted": None, "finished_at": int(time.time()), "error": error, **more}
        self.store.change(job["id"], **values)
        self.store.say(job["id"], message or str((error or {}).get("message")), "error" if error else "info")

    # -- what it leaves ---------------------------------------------------------------------------------------------

    def _succeeded(self, job: Json, place: Path) -> None:
        metrics = RunFolder(place / worker.RUN).metrics()
        trained = [r for r in metrics if "loss" in r]
        name = None
        adapter = place / worker.RUN / "adapter"
        if (adapter / "adapter_config.json").is_file():
            name = job["model_name"]
            with written_aside(self.models / name, keep=True) as aside:
                for file in sorted(adapter.iterdir()):
                    if file.is_file():
                        copied(file, aside / file.name)
            self._publish(name)
        else:
            self.store.say(job["id"], "What was trained is no adapter that the server could serve.", "warn")
        columns = ["step", "train_loss", "learning_rate"]
        lines = [",".join(columns), *(f"{r['step']},{r['loss']!r},{r['learning_rate']!r}" for r in trained)]
        table = self.files.add("step_metrics.csv", [("\n".join(lines) + "\n").encode()], purpose=RESULTS)
        report = self.files.add("report.json", [(place / worker.RUN / "report.json").read_bytes()], purpose=RESULTS)
        self._end(
            job,
            "succeeded",
            fine_tuned_model=name,
            trained_tokens=sum(_last_of_stages(trained)),
            result_files=[table["id"], report["id"]],
            steps=trained[-1]["step"] if trained else 0,
            train_loss=trained[-1]["loss"] if trained else None,
        )

    def _note_phase(self, job: Json, place: Path) -> None:
        try:
            phase = (place / worker.PHASE).read_text(encoding="utf-8")
        except OSError:
            return
        if phase in ACTIVE and phase != self.store.find(job["id"])["status"]:
            self.store.change(job["id"], status=phase)
            self.store.say(
                job["id"], "The files are valid; training starts." if phase == "running" else "Checking files."
            )

    def _note_metrics(self, given: str, place: Path) -> None:
        """Say every logged step once, however often a worker did it again."""
        if given not in self._logged:
            told = [e["data"] for e in self.store.events(given) if e["type"] == "metrics"]
            self._logged[given] = {(d.get("stage", ""), d.get("step", 0)) for d in told}
        seen = self._logged[given]
        for record in RunFolder(place / worker.RUN).metrics():
            key = (record.get("stage", ""), record.get("step", 0))
            if "loss" in record and key not in seen:
                seen.add(key)
                data = {"stage": key[0], "step": key[1], "train_loss": record["loss"]}
                data |= {n: record[n] for n in ("learning_rate", "num_tokens") if n in record}
                self.store.say(given, f"Step {key[1]}: training loss {record['loss']:.3f}", data=data)


def _signal(process: int, number: signal.Signals) -> None:
    """Send it to a worker and what it began; one that has ended meanwhile needs none."""
    with suppress(ProcessLookupError):
        os.killpg(process, number)


def _last_of_stages(records: list[Json]) -> list[int]:
    """Tokens that each stage trained on."""
    return list({r["stage"]: int(r.get("num_tokens", 0)) for r in records}.values())


def _error(code: str, message: str) -> Json:
    return {"code": code, "message": message, "param": None}


def _json(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
