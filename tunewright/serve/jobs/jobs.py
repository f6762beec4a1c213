"""The jobs of a server: what clients ask becomes files, jobs and answers in OpenAI's shape."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import TunewrightError
from tunewright.files.checkpoint import write_json
from tunewright.serve import errors
from tunewright.serve.errors import ApiError
from tunewright.serve.jobs import ids, worker
from tunewright.serve.jobs.asked import JobRequest
from tunewright.serve.jobs.files import PURPOSE, Files, copied
from tunewright.serve.jobs.limits import JobLimits
from tunewright.serve.jobs.recipes import recipe_of
from tunewright.serve.jobs.store import ACTIVE, ENDED, WAITING, Json, Store
from tunewright.serve.jobs.supervisor import Supervisor

SHOWN = (
    "id",
    "created_at",
    "error",
    "fine_tuned_model",
    "finished_at",
    "hyperparameters",
    "model",
    "result_files",
    "seed",
    "status",
    "trained_tokens",
    "training_file",
    "validation_file",
    "metadata",
    "method",
    "tunewright",
)
"""Fields of a job that clients see."""


class Jobs:
    """Files and jobs below `folder`. `bases`: what clients call a base -> what a recipe calls it; no other is trained.

    Finished adapters are put into `models` (none: a folder below), by the name that the job says, and `publish` is told
    of each. A context: the queue runs inside; workers outlive it. FolderError where another server has the folder.
    """

    def __init__(
        self,
        folder: Path,
        bases: Mapping[str, Any],
        *,
        models: Path | None = None,
        limits: JobLimits | None = None,
        publish: Callable[[str], None] | None = None,
    ):
        folder = folder.resolve()
        self.bases, self.limits = dict(bases), limits or JobLimits()
        self.store = Store(folder / "jobs")
        self.files = Files(folder / "files", self.limits)
        self.supervisor = Supervisor(self.store, self.files, models or folder / "models", self.limits, publish)

    def __enter__(self) -> Jobs:
        self.supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()
        self.store.close()

    def create(self, asked: JobRequest) -> Json:
        """Take a job. ApiError where a file or base is not there, the recipe is none, or too many wait."""
        if asked.model not in self.bases:
            known = ", ".join(sorted(self.bases))
            raise ApiError(
                404, f"'{asked.model[:100]}' is no base here: {known}.", param="model", code="model_not_found"
            )
        sources = {"train.jsonl": self._content(asked.training_file, "training_file")}
        if asked.validation_file is not None:
            sources["eval.jsonl"] = self._content(asked.validation_file, "validation_file")
        with self.store.lock:
            if len(self.store.jobs(*WAITING, *ACTIVE)) >= self.limits.waiting + self.limits.at_once:
                raise ApiError(429, f"{self.limits.waiting} jobs wait already. Try again later.", code="queue_full")
            if len(self.store.jobs()) >= self.limits.kept:
                raise ApiError(400, f"This server keeps {self.limits.kept} jobs.")
            given = ids.new(ids.JOB)
            job = self._job(asked, given)
            place = self.store.place(given)
            try:
                tree = recipe_of(asked, self.bases[asked.model], place, given, job["seed"])
            except TunewrightError as error:
                raise errors.of(error, param=error.where or "tunewright") from None
            place.mkdir()
            for name, source in sources.items():
                copied(source, place / name)
            own = asked.chosen
            chosen = {"batch_size": own.batch_size, "learning_rate_multiplier": own.learning_rate_multiplier}
            write_json(place / worker.RECIPE, {"recipe": tree, "chosen": chosen})
            self.store.add(job)
        self.store.say(given, "The job is queued.")
        self.supervisor.wake()
        return shown(job)

    def _content(self, given: str, param: str) -> Path:
        if self.files.get(given, param)["purpose"] != PURPOSE:
            raise ApiError(400, f"Upload the file with purpose '{PURPOSE}'.", param=param)
        return self.files.path(given, param)

    def _job(self, asked: JobRequest, given: str) -> Json:
        seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 31)
        chosen = asked.chosen.model_dump()
        method = {"type": asked.kind, asked.kind: {"hyperparameters": chosen}}
        suffix = re.sub(r"[^A-Za-z0-9]+", "-", asked.suffix or "").strip("-")[:40]
        return {
            "id": given,
            "created_at": int(time.time()),
            "model": asked.model,
            "model_name": "-".join(["ft", *([suffix] if suffix else []), given[-12:]]),
            "training_file": asked.training_file,
            "validation_file": asked.validation_file,
            "method": method,
            "hyperparameters": {k: v for k, v in chosen.items() if k != "beta"},
            "seed": seed,
            "metadata": asked.metadata,
            "tunewright": asked.tunewright,
            "status": "queued",
            "wanted": None,
            "attempts": 0,
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "result_files": [],
            "trained_tokens": None,
        }

    def want(self, given: str, what: str) -> Json:
        """Cancel, pause or resume a job. ApiError where it is not in a state for that."""
        with self.store.lock:
            job = self.store.find(given)
            if job["status"] in ENDED:
                raise ApiError(400, f"The job has {job['status'].replace('cancelled', 'been cancelled')} already.")
            if what == "resume":
                job = self._resumed(job)
            elif job["status"] in ACTIVE:
                if job["wanted"] != "cancel":
                    job = self.store.change(given, wanted=what)
            elif what == "cancel":
                job = self.store.change(given, status="cancelled", finished_at=int(time.time()))
                self.store.say(given, "The job is cancelled.")
            elif job["status"] == "queued":
                job = self.store.change(given, status="paused")
                self.store.say(given, "The job is paused.")
        self.supervisor.wake()
        return shown(job)

    def _resumed(self, job: Json) -> Json:
        if job["status"] != "paused":
            raise ApiError(400, f"The job is {job['status']}: what is paused can be resumed.")
        self.store.say(job["id"], "The job is queued again.")
        return self.store.change(job["id"], status="queued")

    def get(self, given: str) -> Json:
        """A job as clients see it."""
        return shown(self.store.find(given))

    def list(self, after: str | None, limit: int, metadata: Mapping[str, str] | None) -> Json:
        """A page of jobs, the newest first."""
        jobs = [shown(j) for j in reversed(self.store.jobs())]
        if metadata:
            jobs = [j for j in jobs if metadata.items() <= (j["metadata"] or {}).items()]
        return page(jobs, after, limit)

    def events(self, given: str, after: str | None, limit: int) -> Json:
        """A page of what happened to a job, the newest first."""
        return page(list(reversed(self.store.events(self.store.find(given)["id"]))), after, limit)

    def checkpoints(self, given: str, after: str | None, limit: int) -> Json:
        """What of a job can be served: its end."""
        job = self.store.find(given)
        if job["fine_tuned_model"] is None:
            return page([], after, limit)
        made = {
            "id": f"ftckpt-{given.removeprefix('ftjob-')}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": job["finished_at"],
            "fine_tuned_model_checkpoint": job["fine_tuned_model"],
            "fine_tuning_job_id": given,
            "metrics": {"step": job["steps"], "train_loss": job["train_loss"]},
            "step_number": job["steps"],
        }
        return page([made], after, limit)


def shown(job: Json) -> Json:
    """A job in OpenAI's shape."""
    return {
        "object": "fine_tuning.job",
        "organization_id": "tunewright",
        "estimated_finish": None,
        "integrations": [],
        **{k: job[k] for k in SHOWN},
    }


def page(items: Sequence[Json], after: str | None, limit: int) -> Json:
    """Items behind the one named `after`, `limit` of them. ApiError where there is no such item."""
    start = 0
    if after is not None:
        places = [i for i, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(400, f"There is no '{after[:100]}' to go on after.", param="after")
        start = places[0] + 1
    some = list(items[start : start + limit])
    first, last = (some[0]["id"], some[-1]["id"]) if some else (None, None)
    more = start + limit < len(items)
    return {"object": "list", "data": some, "has_more": more, "first_id": first, "last_id": last}
