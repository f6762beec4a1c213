"""Jobs on disk: a folder each, with what was asked, what became of it and what happened. One server has a store at a
time; what it knows is written before it is said, so that another one goes on where it ended.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import FolderError
from tunewright.files.checkpoint import write_json
from tunewright.machine import host
from tunewright.serve.jobs import ids

Json = dict[str, Any]
Level = Literal["info", "warn", "error"]
JOB, EVENTS = "job.json", "events.jsonl"
WAITING = ("queued", "paused")
ACTIVE = ("validating_files", "running")
ENDED = ("succeeded", "failed", "cancelled")


class Store:
    """Jobs below `folder`, which is made and held. FolderError where another server has it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._held = host.Lock(folder / ".lock")
        except host.Held as error:
            raise FolderError(
                f"another server (process {error.holder or '?'}) has these jobs",
                where=str(folder),
                remedy="stop it, or name another folder with --jobs",
            ) from None
        self.folder, self.lock = folder, threading.RLock()
        self._jobs: dict[str, Json] = {}
        self._events: dict[str, list[Json]] = {}
        for name in os.listdir(folder):
            job = _read(folder / name / JOB)
            if job is not None and job.get("id") == name:
                self._jobs[name] = job

    def close(self) -> None:
        """Let another server have the jobs."""
        self._held.release()

    def place(self, job: str) -> Path:
        """A job's folder."""
        return self.folder / job

    def add(self, job: Json) -> None:
        """Keep a new job, whose folder is there."""
        with self.lock:
            job["order"] = 1 + max((j["order"] for j in self._jobs.values()), default=0)
            self._jobs[job["id"]] = job
            self._write(job)

    def change(self, given: str, **values: Any) -> Json:
        """Set fields of a job; what it is then."""
        with self.lock:
            job = self._jobs[given] = {**self._jobs[given], **values}
            self._write(job)
            return job

    def _write(self, job: Mapping[str, Any]) -> None:
        write_json(self.place(job["id"]) / JOB, job)

    def find(self, given: str) -> Json:
        """A job by the name that a client sent. ApiError (404) where there is none."""
        with self.lock:
            job = self._jobs.get(ids.checked(ids.JOB, given, "fine_tuning_job_id"))
        if job is None:
            raise ids.missing(ids.JOB, given, "fine_tuning_job_id")
        return job

    def jobs(self, *statuses: str) -> list[Json]:
        """All jobs of these statuses (none: all), in the order in which they came."""
        with self.lock:
            found = [j for j in self._jobs.values() if not statuses or j["status"] in statuses]
        return sorted(found, key=lambda j: j["order"])

    def say(self, given: str, message: str, level: Level = "info", data: Json | None = None) -> None:
        """Note that something happened to a job; with `data` it is a record of metrics."""
        with self.lock:
            events = self.events(given)
            event: Json = {
                "id": f"ftevent-{given.removeprefix('ftjob-')}-{len(events)}",
                "object": "fine_tuning.job.event",
                "created_at": int(time.time()),
                "level": level,
                "message": message,
                "type": "message" if data is None else "metrics",
                "data": data or {},
            }
            events.append(event)
            with open(self.place(given) / EVENTS, "a", encoding="utf-8") as out:
                out.write(json.dumps(event, ensure_ascii=False) + "\n")

    def events(self, given: str) -> list[Json]:
        """What happened to a job, the oldest first; the list is the store's own."""
        with self.lock:
            if given not in self._events:
                self._events[given] = _lines(self.place(given) / EVENTS)
            return self._events[given]


def _read(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path) -> list[Json]:
    """Whole lines; a last one that a killed server wrote half is cut off the file, so that the next begins anew."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    found = []
    for line in whole.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
