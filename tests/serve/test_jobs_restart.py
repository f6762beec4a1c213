"""Jobs survive their server, and servers survive what happens to workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import openai
import pytest
import torch
from safetensors.torch import load_file

from tests.serve.jobs_serving import base, chats, ended, served, until, uploaded
from tunewright.errors import FolderError
from tunewright.machine import host
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe
from tunewright.serve.jobs import supervisor
from tunewright.serve.jobs.jobs import Jobs
from tunewright.serve.jobs.limits import JobLimits

FAKE = """
import json, os, signal, sys, time
from pathlib import Path
from tunewright.machine import host
from tunewright.files.checkpoint import write_text
place = Path(sys.argv[1])
lock = host.Lock(place / ".worker")
write_text(place / "process", host.mark())
write_text(place / "phase", "running")
signal.signal(signal.SIGINT, lambda *_: os._exit(75))
if (place / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(place / "starts", "a") as out:
    out.write(".")
while place.exists() and not (place.parent / "go").exists():
    if (place / "die").exists():
        os.kill(os.getpid(), 9)
    time.sleep(0.02)
(place / "run").mkdir(exist_ok=True)
step = {"stage": "main", "step": 1, "loss": 1.5, "learning_rate": 0.1, "num_tokens": 9}
(place / "run" / "metrics.jsonl").write_text(json.dumps(step) + "\\n")
(place / "run" / "report.json").write_text("{}")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Workers that wait until a file called `go` lies beside the jobs."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(supervisor, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(supervisor, "GRACE", 0.3)
    yield tmp_path / "jobs"
    (tmp_path / "jobs" / "jobs").mkdir(parents=True, exist_ok=True)
    (tmp_path / "jobs" / "jobs" / "go").touch()  # workers outlive their server, and would this test


def create(client, file=None):
    return client.fine_tuning.jobs.create(model="tiny", training_file=file or uploaded(client, chats(2))).id


def status(client, job):
    return client.fine_tuning.jobs.retrieve(job).status


def running(client, job):
    until(lambda: status(client, job) == "running", 60)


def test_as_many_as_may_train_at_once_in_the_order_in_which_they_came(fake):
    with served(fake, limits={"at_once": 2}) as (jobs, client):
        made = [create(client) for _ in range(4)]
        running(client, made[0])
        running(client, made[1])
        time.sleep(3 * supervisor.TICK)
        assert [status(client, j) for j in made[2:]] == ["queued", "queued"]
        (jobs.store.folder / "go").touch()
        assert [ended(client, j).status for j in made] == ["succeeded"] * 4
        assert [j.id for j in client.fine_tuning.jobs.list(limit=3)] == made[::-1]
        finished = [client.fine_tuning.jobs.retrieve(j) for j in made]
        assert all(j.fine_tuned_model is None and j.trained_tokens == 9 for j in finished)  # it left no adapter
        events = client.fine_tuning.jobs.list_events(made[0]).data
        assert any("no adapter" in e.message and e.level == "warn" for e in events)


def test_a_worker_goes_on_without_its_server_and_the_next_one_knows_it(fake):
    with served(fake) as (jobs, client):
        first, second = create(client), create(client)
        running(client, first)
        process = (jobs.store.place(first) / "process").read_text()
    assert not host.is_gone(process)
    with served(fake) as (jobs, client):
        assert status(client, first) == "running" and status(client, second) == "queued"
        time.sleep(3 * supervisor.TICK)
        assert (jobs.store.place(first) / "starts").read_text() == "."
        (jobs.store.folder / "go").touch()
        assert ended(client, first).status == ended(client, second).status == "succeeded"
        assert (jobs.store.place(first) / "starts").read_text() == "."


def test_a_job_that_ended_while_there_was_no_server_is_found_so(fake):
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        folder, process = jobs.store.folder, (jobs.store.place(job) / "process").read_text()
    (folder / "go").touch()
    until(lambda: host.is_gone(process) or _is_zombie(process), 60)
    with served(fake) as (_, client):
        assert ended(client, job).status == "succeeded"


def _is_zombie(process):
    number = process.partition("-")[0]
    try:
        os.waitpid(int(number), os.WNOHANG)  # a child of this test, whose server is gone
    except ChildProcessError:
        return True
    return False


def test_a_killed_worker_is_started_again_and_not_for_ever(fake):
    with served(fake, limits={"attempts": 3}) as (jobs, client):
        job = create(client)
        running(client, job)
        place = jobs.store.place(job)
        os.kill(int((place / "process").read_text().partition("-")[0]), signal.SIGKILL)
        until(lambda: (place / "starts").read_text() == "..", 60)
        (place / "die").touch()
        found = ended(client, job)
        assert (
            found.status == "failed" and found.error.code == "worker_ended" and "several times" in found.error.message
        )
        assert (place / "starts").read_text() == "..."
        assert "goes on" in " ".join(e.message for e in client.fine_tuning.jobs.list_events(job))


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancelling_ends_the_worker(fake, stubborn):
    with served(fake) as (jobs, client):
        job, waiting = create(client), create(client)
        running(client, job)
        place = jobs.store.place(job)
        if stubborn:
            (place / "stubborn").touch()
            os.kill(int((place / "process").read_text().partition("-")[0]), signal.SIGKILL)
            until(lambda: (place / "starts").read_text() == "..", 60)
        assert client.fine_tuning.jobs.cancel(waiting).status == "cancelled"
        client.fine_tuning.jobs.cancel(job)
        assert ended(client, job).status == "cancelled"
        assert host.is_gone((place / "process").read_text())
        for ask in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
            with pytest.raises(openai.BadRequestError, match="already"):
                ask(job)


def test_a_paused_job_waits_and_goes_on(fake):
    with served(fake) as (jobs, client):
        first, second = create(client), create(client)
        running(client, first)
        with pytest.raises(openai.BadRequestError, match="paused can be resumed"):
            client.fine_tuning.jobs.resume(first)
        client.fine_tuning.jobs.pause(first)
        ended(client, first, ["paused"])
        running(client, second)  # which takes its place
        assert client.fine_tuning.jobs.resume(first).status == "queued"
        assert client.fine_tuning.jobs.pause(first).status == "paused"
    with served(fake) as (jobs, client):
        assert status(client, first) == "paused"
        client.fine_tuning.jobs.resume(first)
        (jobs.store.folder / "go").touch()
        assert ended(client, first).status == "succeeded"
        assert client.fine_tuning.jobs.retrieve(first).error is None


def test_too_many_jobs_are_refused(fake):
    with served(fake, limits={"waiting": 1}) as (_, client):
        file = uploaded(client, chats(2))
        made = [create(client, file), create(client, file)]
        with pytest.raises(openai.RateLimitError, match="wait already"):
            create(client, file)
        for job in made:
            client.fine_tuning.jobs.cancel(job)
            ended(client, job)
    with served(fake, limits={"kept": 2}) as (_, client), pytest.raises(openai.BadRequestError, match="keeps 2 jobs"):
        create(client)


def test_two_servers_do_not_share_jobs(fake):
    with Jobs(fake, {}, limits=JobLimits()), pytest.raises(FolderError, match="another server"):
        Jobs(fake, {}, limits=JobLimits())
    Jobs(fake, {}, limits=JobLimits()).store.close()


def test_an_event_that_was_half_written_is_left_out(fake):
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        file = jobs.store.place(job) / "events.jsonl"
        client.fine_tuning.jobs.cancel(job)
        ended(client, job)
    with open(file, "a", encoding="utf-8") as out:
        out.write('{"id": "ftev')
    with served(fake) as (jobs, client):
        whole = [e.message for e in client.fine_tuning.jobs.list_events(job)]
        assert whole[0] == "The job is cancelled."
        jobs.store.say(job, "More.")
    with served(fake) as (_, client):
        assert [e.message for e in client.fine_tuning.jobs.list_events(job)] == ["More.", *whole]


def test_workers_do_not_get_the_servers_key(fake, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_API_KEY", "a-long-secret")
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        number = (jobs.store.place(job) / "process").read_text().partition("-")[0]
        with open(f"/proc/{number}/environ", "rb") as f:
            assert b"a-long-secret" not in f.read()
        client.fine_tuning.jobs.cancel(job)
        ended(client, job)


def test_many_clients_at_once_lose_nothing(fake):
    with served(fake, limits={"waiting": 100}) as (jobs, client):
        file, made, failed = uploaded(client, chats(2)), [], []

        def ask():
            try:
                made.append(create(client, file))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed and len(set(made)) == 20
        assert sorted(j["order"] for j in jobs.store.jobs()) == list(range(1, 21))
        for job in made:
            client.fine_tuning.jobs.cancel(job)
        for job in made:
            ended(client, job)


@pytest.mark.parametrize("what", ["cancelled", "paused"])
def test_a_job_that_left_the_queue_since_it_was_read_is_not_begun(fake, what):
    with served(fake, limits={"at_once": 1}) as (jobs, client):
        running(client, create(client))
        waiting = create(client)
        read = jobs.store.find(waiting)
        assert read["status"] == "queued"
        jobs.want(waiting, {"cancelled": "cancel", "paused": "pause"}[what])
        jobs.supervisor._begin(read)
        assert status(client, waiting) == what and waiting not in jobs.supervisor._mine


def test_a_job_that_is_cancelled_while_it_is_being_paused_is_cancelled(fake, monkeypatch):
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        jobs.supervisor.stop()  # from here on this test looks after the queue
        jobs.want(job, "pause")
        real, asks = supervisor._json, threading.Thread(target=lambda: jobs.want(job, "cancel"))

        def read(path):  # a client cancels once the worker's end is being noted
            asks.start()
            asks.join(0.5)
            return real(path)

        monkeypatch.setattr(supervisor, "_json", read)
        place = jobs.store.place(job)
        os.kill(int((place / "process").read_text().partition("-")[0]), signal.SIGKILL)
        jobs.supervisor._mine[job].wait()
        jobs.supervisor._look(jobs.store.find(job))
        asks.join()
        assert status(client, job) == "cancelled"


def test_a_worker_that_ends_before_its_signal_is_no_fault_of_the_server(fake):
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        jobs.supervisor.stop()
        process = jobs.supervisor._mine[job]
        process.kill()
        process.wait()
        jobs.want(job, "cancel")
        jobs.supervisor._ask_to_end(jobs.store.find(job), jobs.store.place(job))
        jobs.supervisor._look(jobs.store.find(job))
        assert status(client, job) == "cancelled"


def test_looking_whether_a_worker_lives_keeps_none_from_beginning(fake, monkeypatch):
    with served(fake) as (jobs, client):
        job = create(client)
        running(client, job)
        place, held = jobs.store.place(job), []
        monkeypatch.setattr(host, "Lock", lambda path: held.append(path))
        assert jobs.supervisor._lives(place) and not jobs.supervisor._lives(place / "none") and not held
        client.fine_tuning.jobs.cancel(job)
        ended(client, job)


KILLED = """
import os, signal, sys
from pathlib import Path
from tunewright.runs.stages import TrainingCallback
from tunewright.serve.jobs import worker
place, real = Path(sys.argv[1]), TrainingCallback.__call__
def call(self, loop, record):
    real(self, loop, record)
    if loop.step_number == 13 and not (place / "killed").exists():
        (place / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
TrainingCallback.__call__ = call
sys.exit(worker.main(place))
"""


@pytest.mark.slow
def test_a_killed_job_resumes_to_the_bits_of_one_that_was_not(tmp_path, monkeypatch):
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setattr(supervisor, "COMMAND", (sys.executable, str(tmp_path / "killed.py")))
    model = base(tmp_path / "base")
    with served(tmp_path / "jobs", model) as (jobs, client):
        made = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=uploaded(client, chats(40)),
            seed=1,
            extra_body={
                "tunewright": {
                    "methods": [{"lora": {"rank": 2}}],
                    "budget": {"steps": 60},
                    "train": {"save_steps": 5, "threads": 1, "batch_tokens": 128, "learning_rate": 0.01},
                }
            },
        )
        place = jobs.store.place(made.id)
        job = ended(client, made.id)
        assert job.status == "succeeded", (place / "log.txt").read_text()
        steps = [e.data["step"] for e in client.fine_tuning.jobs.list_events(made.id) if e.type == "metrics"]
        assert sorted(steps) == list(range(1, 61))  # each once, though some were done twice
        report = (place / "run" / "progress.json").read_text()
        assert '"resumed"' in report
        import json

        tree = json.loads((place / "settled.json").read_text())
        own = run_recipe(Recipe(**tree), tmp_path / "own", quiet=True)
        mine = load_file(own.folder / "adapter" / "adapter_model.safetensors")
        theirs = load_file(tmp_path / "jobs" / "models" / job.fine_tuned_model / "adapter_model.safetensors")
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)
