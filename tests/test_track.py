"""Trackers: what they are sent, and that none fails a run or makes it wait.

Stand-ins have the real libraries' names and arguments; the real ones are tried offline, where they are installed.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import sqlite3
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small
from tunewright.runs import track, trackers
from tunewright.runs.run import run
from tunewright.runs.trackers import Tracked

RECORDS = [
    {"step": 1, "loss": 2.0, "stage": "main", "seconds": {"forward": 0.5}, "bad": math.nan},
    {"step": 2, "loss": 1.5},
    {"loss": 9.0},
]


def send(name: str, folder: Path, *, first: int = 0, before: int = 0) -> track.Trackers:
    """What is not tried here is how long the end waits: a library may take long to import."""
    sent = track.Trackers([name], folder, first, before)
    for record in RECORDS:
        sent.log(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track, "LIMIT", 300.0)
        sent.close()
    return sent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder as a stage finds it."""
    made = tmp_path / "run"
    made.mkdir()
    (made / "recipe.yaml").write_text(
        yaml.safe_dump({"model": "m", "train": {"seed": 1}, "stages": [{"name": "main"}]})
    )
    (made / "progress.json").write_text(json.dumps({"started": "2026-11-29T00:00:00"}))
    return made


def test_tensorboard_gets_the_numbers_of_each_record(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not send("tensorboard", tmp_path).cautions
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 2.0), (2, 1.5)]
    assert set(read.Tags()["scalars"]) == {"loss", "seconds/forward"}
    send("tensorboard", tmp_path, before=2)  # the next stage: nothing of the one before is hidden
    read.Reload()
    assert [e.step for e in read.Scalars("loss")] == [1, 2, 3, 4]


# -- none fails or slows a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_tracker_that_fails_is_logged_once_and_the_run_goes_on(monkeypatch, caplog, tmp_path, when):
    class Broken:
        def __init__(self, run):
            if when == "open":
                raise ImportError("not installed")

        def log(self, values, step):
            if when == "log":
                raise ConnectionError("gone")

        def close(self):
            if when == "close":
                raise OSError("full")

    monkeypatch.setitem(trackers.TRACKERS, "broken", Broken)
    monkeypatch.setitem(sys.modules, "broken", module("broken"))
    with caplog.at_level(logging.WARNING):
        sent = track.Trackers(["broken"], tmp_path)
        for step in range(3):
            sent.log({"step": step, "loss": 1.0})
        sent.close()
    ours = [r for r in caplog.records if r.name.startswith("tunewright")]
    assert len(ours) == len(sent.cautions) == 1 and "broken" in caplog.text
    assert "metrics.jsonl has every record" in sent.cautions[0]


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_tracker_that_hangs_is_left_to_itself(monkeypatch, tmp_path, where):
    free = threading.Event()

    class Hanging:
        def __init__(self, run):
            if where == "open":
                free.wait(60)

        def log(self, values, step):
            if where == "log":
                free.wait(60)

        def close(self):
            if where == "close":
                free.wait(60)

    for name in ("hanging", "also hanging"):
        monkeypatch.setitem(trackers.TRACKERS, name, Hanging)
        monkeypatch.setitem(sys.modules, name, module(name))
    monkeypatch.setattr(track, "LIMIT", 0.3)
    monkeypatch.setattr(track, "WAITING", 5)
    began = time.monotonic()
    sent = track.Trackers(["hanging", "also hanging"], tmp_path)
    for step in range(50):
        sent.log({"step": step, "loss": 1.0})
    sent.close()
    assert time.monotonic() - began < 45  # not the 60 s that each hangs
    assert [c.split("'")[1] for c in sent.cautions] == [
        "hanging",
        "also hanging",
    ] and "left to itself" in sent.cautions[0]
    free.set()


def test_a_tracker_that_is_too_slow_gets_less_and_the_run_says_how_much(monkeypatch, tmp_path):
    seen, begun, free = [], threading.Event(), threading.Event()

    class Slow:
        def __init__(self, run):
            pass

        def log(self, values, step):
            begun.set()
            free.wait(60)
            seen.append(step)

        def close(self):
            pass

    monkeypatch.setitem(trackers.TRACKERS, "slow", Slow)
    monkeypatch.setitem(sys.modules, "slow", module("slow"))
    monkeypatch.setattr(track, "WAITING", 5)
    sent = track.Trackers(["slow"], tmp_path)
    sent.log({"step": 0, "loss": 1.0})
    assert begun.wait(120)
    for step in range(1, 20):
        sent.log({"step": step, "loss": 1.0})
    threading.Timer(0.2, free.set).start()
    sent.close()
    # one is left out for the end, unless the tracker got on in that moment
    assert seen == sorted(seen) and {0} < set(seen) <= {0, 1, 2, 3, 4, 5} and len(seen) >= 5
    assert f"too slow for {20 - len(seen)} records" in sent.cautions[0]


def test_a_tracker_that_gets_on_while_room_is_made_for_the_end_fails_no_run(monkeypatch, tmp_path):
    class Quick(queue.Queue):
        """Full when the end is put, and empty before the newest is taken out for it."""

        def put_nowait(self, item):
            if item is track._END and not self.empty():
                while not self.empty():
                    super().get_nowait()
                raise queue.Full
            super().put_nowait(item)

    class Idle:
        def __init__(self, run):
            free.wait(60)

        def close(self):
            pass

    free = threading.Event()
    monkeypatch.setattr(track.queue, "Queue", Quick)
    monkeypatch.setitem(trackers.TRACKERS, "idle", Idle)
    monkeypatch.setitem(sys.modules, "idle", module("idle"))
    sent = track.Trackers(["idle"], tmp_path)
    sent.log({"step": 0, "loss": 1.0})
    sent._working[0].end()
    free.set()
    assert not sent._working[0].wait(60) and not sent._working[0]._left_out


def test_what_is_not_installed_is_said_before_the_run_and_left_out(monkeypatch, tmp_path, inputs):
    from tunewright.planning.check import check_recipe

    for name, extra in (("tensorboard", "track"), ("wandb", "wandb"), ("mlflow", "mlflow"), ("trackio", "trackio")):
        monkeypatch.setitem(sys.modules, name, None)
        assert f'pip install "tunewright[{extra}]"' in trackers.lacking([name])[name]
        assert not send(name, tmp_path).cautions
    recipe = small.write_recipe(inputs, "lacking", train__report_to=["wandb"])
    assert any("names wandb" in note for note in check_recipe(recipe).report.cautions)
    done = run(recipe, out=tmp_path / "out", quiet=True)
    assert sum("wandb" in note for note in done.report.notes) == 1


def test_a_run_whose_tracker_stops_is_a_whole_run_and_says_so(monkeypatch, tmp_path, inputs):
    monkeypatch.setitem(sys.modules, "wandb", module("wandb"))  # it has nothing that is asked of it
    done = run(small.write_recipe(inputs, "tracked", train__report_to=["wandb"]), out=tmp_path / "out", quiet=True)
    assert any("'wandb' stopped (AttributeError" in note for note in done.report.notes)
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    small.write_inputs(place)
    return place


# -- what each is sent, by stand-ins -----------------------------------------------------------------------------------


class FakeRun:
    def __init__(self, calls: list[Any]):
        self.calls = calls

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((step, values))

    def finish(self) -> None:
        self.calls.append("finish")


def module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    for key, value in names.items():
        setattr(made, key, value)
    return made


SENT = [(1, {"loss": 2.0, "seconds/forward": 0.5}), (2, {"loss": 1.5})]


@pytest.mark.parametrize("known", [True, False])
def test_wandb_is_asked_for_one_run_a_folder_offline_where_nobody_is_logged_in(monkeypatch, folder, known):
    calls: list[Any] = []

    def init(**options: Any) -> FakeRun:
        calls.append(options)
        return FakeRun(calls)

    fake = module("wandb", init=init, login=lambda prompt: known, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert not send("wandb", folder).cautions
    options, *sent, last = calls
    assert sent == SENT and last == "finish"
    assert options["mode"] == (None if known else "offline") and options["resume"] == "allow"
    assert (options["name"], options["project"], options["dir"]) == ("run", "tunewright", str(folder))
    assert options["config"]["train"] == {"seed": 1}
    assert options["settings"] == {"console": "off", "silent": True, "finish_timeout": trackers.UPLOAD}
    assert trackers.UPLOAD < track.LIMIT
    send("wandb", folder, before=2)
    again = [c for c in calls if isinstance(c, dict)]
    assert again[0]["id"] == again[1]["id"] and [c[0] for c in calls if isinstance(c, tuple)] == [1, 2, 3, 4]
    (folder / "progress.json").write_text(json.dumps({"started": "later"}))
    assert Tracked(folder).key != again[0]["id"], "another run in a folder of the same name"


def test_mlflow_goes_on_with_the_run_that_it_knows(monkeypatch, folder):
    calls: list[Any] = []

    def found(name):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

    class Client:
        runs: dict[str, str] = {}

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id="7") if Client.runs else None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "7"

        def search_runs(self, experiments, text):
            return [
                types.SimpleNamespace(info=types.SimpleNamespace(run_id=r)) for k, r in Client.runs.items() if k in text
            ]

        def update_run(self, run_id, status):
            calls.append(("goes on", run_id))

        def create_run(self, experiment, run_name, tags):
            Client.runs[tags["tunewright.run"]] = "r1"
            calls.append(("run", experiment, run_name))
            return found("r1")

        def log_batch(self, run_id, metrics=(), params=()):
            calls.append([*metrics, *params])

        def set_terminated(self, run_id):
            calls.append(("end", run_id))

    metric = lambda key, value, now, step: (key, value, step)  # noqa: E731
    entities = module("mlflow.entities", Metric=metric, Param=lambda key, value: (key, value))
    monkeypatch.setitem(sys.modules, "mlflow", module("mlflow", MlflowClient=Client, entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert not send("mlflow", folder).cautions
    assert calls == [
        ("experiment", "tunewright"),
        ("run", "7", "run"),
        [("model", "m"), ("stages.0.name", "main"), ("train.seed", "1")],
        [("loss", 2.0, 1), ("seconds/forward", 0.5, 1)],
        [("loss", 1.5, 2)],
        ("end", "r1"),
    ]
    calls.clear()
    send("mlflow", folder, before=2)
    assert calls[0] == ("goes on", "r1") and calls[-2:] == [[("loss", 1.5, 4)], ("end", "r1")]


def test_trackio_prints_nothing_on_standard_output(monkeypatch, folder, capsys):
    calls: list[Any] = []
    fake = module("trackio", run=module("trackio.run"), utils=module("trackio.utils"))

    def init(**options: Any) -> FakeRun:
        calls.append(options)
        fake.print("* Trackio project initialized")  # type: ignore[attr-defined]
        return FakeRun(calls)

    fake.init = init  # type: ignore[attr-defined]
    for name, value in (("trackio", fake), ("trackio.run", fake.run), ("trackio.utils", fake.utils)):
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    assert not send("trackio", folder).cautions
    options, *sent, last = calls
    assert sent == SENT and last == "finish" and options["resume"] == "allow"
    assert options["name"] == f"run-{Tracked(folder).key}" and options["project"] == "tunewright"
    assert not options["auto_log_cpu"] and not options["auto_log_gpu"]
    out = capsys.readouterr()
    assert not out.out and "initialized" in out.err


# -- the real libraries, offline ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_wandb_offline(monkeypatch, folder):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not send("wandb", folder).cautions
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.name == f"run-{Tracked(folder).key}.wandb" and b"loss" in file.read_bytes()


@pytest.mark.slow
def test_the_real_mlflow_in_a_file(monkeypatch, folder, tmp_path):
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    assert not send("mlflow", folder).cautions
    assert not send("mlflow", folder, before=2).cautions
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/m.db")
    (one,) = client.search_runs([client.get_experiment_by_name("tunewright").experiment_id])
    assert one.data.params["train.seed"] == "1" and one.info.status == "FINISHED"
    history = client.get_metric_history(one.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 2.0), (2, 1.5), (3, 2.0), (4, 1.5)]


@pytest.mark.slow
def test_the_real_trackio_in_a_folder(monkeypatch, folder, tmp_path, capsys):
    pytest.importorskip("trackio")
    import trackio.utils

    place = tmp_path / "trackio"
    for name in list(sys.modules):
        if name.split(".")[0] == "trackio" and hasattr(sys.modules[name], "TRACKIO_DIR"):
            monkeypatch.setattr(sys.modules[name], "TRACKIO_DIR", place)
    assert trackio.utils is not None
    assert not send("trackio", folder).cautions
    assert not send("trackio", folder, before=2).cautions
    assert capsys.readouterr().out == ""
    (file,) = place.glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {r[0] for r in rows} == {f"run-{Tracked(folder).key}"} and [r[1] for r in rows] == [1, 2, 3, 4]
