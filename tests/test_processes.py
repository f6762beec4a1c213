"""One run by several processes: what a single one would give, and one message where it cannot."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.golden.digests import trained_methods
from tests.resuming import RECIPES, STEP, Bench, at, bench, commands, recipe
from tunewright import catalogue, errors
from tunewright.conformance.case import Case
from tunewright.machine import group as groups
from tunewright.machine.group import Group
from tunewright.runs import launching, several, stages

__all__ = ["bench", "commands"]
NAMES = [n for n in trained_methods() if Case.of(n).method.ranks]

ROUNDING = ("roste",)
"""Methods that round weights to few steps as they train: a last bit may turn one to the next step."""


@contextmanager
def spawn(arguments: list[str], count: int, **env: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Python in so many processes, with torchrun's names, that imports what this one does; their port is held for them
    within.
    """
    path = os.pathsep.join(p for p in sys.path if p)
    with launching.held_port() as port:
        yield [
            subprocess.Popen(
                [sys.executable, "-P", *arguments],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
                | {**launching._names(rank, count, port), **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_whatever_the_method(tmp_path):
    file = tmp_path / "losses.json"
    with spawn(["-m", "tests.processes", str(file), *NAMES], 2) as processes:
        for process in processes:
            said = process.communicate(timeout=1800)
            assert process.returncode == 0, said
    found: dict[str, Any] = json.loads(file.read_text())
    assert list(found) == NAMES
    for name, by in found.items():
        alone, two = by["alone"], by["together"]
        assert isinstance(alone, list) and isinstance(two, list), (name, alone, two)
        assert alone[0] == pytest.approx(two[0], rel=1e-4, abs=1e-5), name  # of a later stage, for some
        grown = 2e-2 if name in ROUNDING else 5e-3  # rounding grows from step to step
        assert alone == pytest.approx(two, rel=grown, abs=1e-3), name


def run_two(bench: Bench, arguments: list[str], *faults: dict[str, Any]) -> list[Any]:
    """A command in two processes, the second with `faults`; how each ended."""
    started = []
    with launching.held_port() as port:
        for rank in range(2):
            cwd = bench.folder if not rank else bench.folder / "elsewhere"
            cwd.mkdir(exist_ok=True)
            env = launching._names(rank, 2, port)
            started.append((cwd, bench.commands.start(cwd, arguments, *(faults if rank else ()), env=env)))
        return [bench.commands.wait(cwd, process) for cwd, process in started]


@pytest.fixture(scope="module")
def two(bench) -> tuple[Path, list[Any]]:
    """A run with dropout in two processes."""
    file = bench.folder / bench.write("two", RECIPES["lora with dropout"])
    out = bench.folder / "two"
    return out, run_two(bench, ["run", str(file), "--out", str(out)])


def steps(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_the_first_process_alone_writes_and_speaks(bench, two):
    out, (first, second) = two
    assert (first.code, second.code) == (0, 0), (first.stderr, second.stderr)
    assert "Report:" in first.stdout and not second.stdout and not second.stderr
    assert not list((bench.folder / "elsewhere").glob("runs*")) and (out / "report.json").exists()


@pytest.mark.slow
def test_without_dropout_two_processes_train_the_adapter_of_one(bench):
    plain = recipe([{"lora": {"rank": 2}}])
    file = bench.folder / bench.write("plain", plain)
    outs = [bench.folder / "plain-one", bench.folder / "plain-two"]
    assert bench.commands(bench.folder, ["run", str(file), "--out", str(outs[0])]).code == 0
    assert [d.code for d in run_two(bench, ["run", str(file), "--out", str(outs[1])])] == [0, 0]
    assert steps(outs[0]) == pytest.approx(steps(outs[1]), rel=1e-4)
    one, other = map(adapter, outs)
    assert all(torch.allclose(one[n], other[n], rtol=1e-3, atol=1e-5) for n in one) and one.keys() == other.keys()


@pytest.mark.slow
def test_two_processes_measure_what_one_does_after_every_stage_and_while_training(bench):
    stages = [
        {"name": name, "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 4}, "carry": "fold"}
        for name in ("first", "second")
    ]
    body = recipe(stages=[stages[0], stages[1] | {"start": "stages.first"}], eval_steps=2)
    body["measurement"] = {**body.get("measurement", {}), "strengths": [0, 0.5, 1], "dial_rows": 6}
    body["keep"] = [*body.get("keep", []), "pack:facts"]
    file = bench.folder / bench.write("measured", body)
    outs = [bench.folder / "measured-one", bench.folder / "measured-two"]
    assert bench.commands(bench.folder, ["run", str(file), "--out", str(outs[0])]).code == 0
    done = run_two(bench, ["run", str(file), "--out", str(outs[1])])
    assert [d.code for d in done] == [0, 0], done
    one, two = (json.loads((out / "report.json").read_text()) for out in outs)
    for name in ("target", "kept", "packs", "drift", "trade"):
        assert _numbers(one[name]) == pytest.approx(_numbers(two[name]), rel=1e-3, abs=1e-4), name
        assert _numbers(one[name])
    tasks = [[s["tasks"] for s in r["stages"]] for r in (one, two)]
    assert _numbers(tasks[0]) == pytest.approx(_numbers(tasks[1]), rel=1e-3) and _numbers(tasks[0])
    evaluated = [
        [
            (line["step"], line["eval_loss"])
            for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            if "eval_loss" in line
        ]
        for out in outs
    ]
    assert evaluated[0] and len(evaluated[0]) == len(evaluated[1])
    assert _numbers(evaluated[0]) == pytest.approx(_numbers(evaluated[1]), rel=1e-4)


def _numbers(value: Any) -> list[float]:
    """All numbers in a tree of JSON values, in order."""
    if isinstance(value, dict | list):
        return [n for v in (value.values() if isinstance(value, dict) else value) for n in _numbers(v)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_one_message_and_it_goes_on(bench, two):
    whole, _ = two
    file = bench.folder / bench.write("two", RECIPES["lora with dropout"])
    outs = [str(bench.folder / f"killed-{n}") for n in (1, 2)]
    for out in outs:
        first, second = run_two(bench, ["run", str(file), "--out", out], at(STEP, 8))
        assert second.code == -9 and first.code == errors.PartedError.code
        assert (
            first.stderr.count("error:") == 1
            and "another of the 2 processes" in first.stderr
            and "pair.cc" not in first.stderr
        )
        assert f"{out}" in first.stderr and "tunewright resume" in first.stderr and "Traceback" not in first.stderr
    assert [d.code for d in run_two(bench, ["resume", outs[0]])] == [0, 0]
    ended = adapter(Path(outs[0]))
    assert all(torch.equal(t, ended[n]) for n, t in adapter(whole).items())
    assert bench.commands(bench.folder, ["resume", outs[1]]).code == 0  # by one process: with a dropout of its own
    assert len(steps(Path(outs[1]))) == 10 and steps(Path(outs[1]))[:6] == steps(whole)[:6]


def launched(bench: Bench, *arguments: str) -> subprocess.Popen[str]:
    """`tunewright ... --nproc 2` begun."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TUNEWRIGHT_CACHE": str(bench.folder / "cache")}
    command = [sys.executable, "-m", "tunewright", *arguments, "--nproc", "2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # what begins tests in the background may let them ignore Ctrl-C, and so would this
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env={**env, "TMPDIR": str(bench.folder)}, text=True, **pipes)


@pytest.mark.slow
def test_the_command_begins_processes_passes_a_signal_on_and_clears_up(bench):
    file = bench.folder / bench.write("launched", recipe([{"lora": {"rank": 2}}], save_steps=None))
    out = bench.folder / "launched"
    process = launched(bench, "run", str(file), "--out", str(out), "--set", "budget.steps=100000")
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == errors.INTERRUPTED, said
    assert said.count("error:") == 1 and str(out) in said
    assert not list(bench.folder.glob("tunewright-*"))


@pytest.mark.parametrize(("stopped", "kind"), [(True, errors.Interrupted), (False, errors.PartedError)])
def test_one_that_was_stopped_early_is_an_interruption_of_all(monkeypatch, tmp_path, stopped, kind):
    group, out = Group(0, 2), tmp_path / "out"
    monkeypatch.setattr(Group, "meet", lambda self: None)
    group._joined, group._store = True, SimpleNamespace(check=lambda keys: stopped and keys == [groups.STOPPED])

    def work(folder):
        raise group.ended()

    with pytest.raises(kind) as error:
        several.together(group, work, out)
    assert str(out) in str(error.value.where)


@pytest.mark.parametrize(("code", "left"), [(errors.INTERRUPTED, 0), (0, 0), (1, -9)])
def test_one_that_failed_ends_the_others_and_one_that_was_interrupted_waits_for_them(monkeypatch, code, left):
    monkeypatch.setattr(launching, "PATIENCE", 0.5)
    waits = f"import time; time.sleep({600 if left else 4})"
    ends = [subprocess.Popen([sys.executable, "-c", c]) for c in (waits, f"raise SystemExit({code})")]
    assert launching._wait(ends) == [left, code]


def test_an_interruption_while_processes_are_begun_leaves_none_behind(monkeypatch):
    begun: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def beginning(*given, **how):
        if begun:
            raise KeyboardInterrupt
        begun.append(begin([sys.executable, "-c", "import time; time.sleep(600)"]))
        return begun[0]

    monkeypatch.setattr(launching.subprocess, "Popen", beginning)
    with pytest.raises(KeyboardInterrupt):
        launching.launch(["run"], 2)
    assert begun[0].wait(60) == -signal.SIGKILL


def test_a_port_is_held_for_the_first_process_and_can_be_taken_by_it():
    with launching.held_port() as port:
        if sys.platform == "linux":
            with socket.socket() as other, pytest.raises(OSError):
                other.bind(("127.0.0.1", port))
        store = torch.distributed.TCPStore("127.0.0.1", port, 1, True, timeout=datetime.timedelta(seconds=60))
        store.set("a", "b")
        assert store.get("a") == b"b"


PARTING = """
import sys, time
from tunewright.errors import DataError, Interrupted
from tunewright.runs.several import joined
how, late = sys.argv[1], int(sys.argv[2])
try:
    with joined() as group:
        group.told({})
        if group.rank == late:
            time.sleep(5)
        began = time.monotonic()
        if how != "well":
            raise {"interrupted": Interrupted, "failed": DataError}[how](how)
except (Interrupted, DataError):
    pass
finally:
    print(time.monotonic() - began)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "late", "waits"), [("well", 0, True), ("interrupted", 1, True), ("failed", 1, False)])
def test_none_closes_its_connections_while_another_may_still_be_told(how, late, waits):
    with spawn(["-c", PARTING, how, str(late)], 2) as processes:
        took = [float(p.communicate(timeout=300)[0]) for p in processes]
    assert (took[1 - late] > 2.5) == waits, took


@pytest.mark.parametrize("well", [True, False])
def test_what_leaves_says_so_and_waits_for_all_where_it_ends_well(monkeypatch, well):
    done: list[str] = []
    group, keys = Group(0, 2), ["tunewright/left/0", "tunewright/left/1"]
    group._joined = True
    group._store = SimpleNamespace(
        set=lambda key, value: done.append(key), wait=lambda these, limit: done.extend(these)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("gone"))
    group.leave(well)
    group.leave(well)
    assert done == [*(keys[:1] + keys if well else []), "gone"]


@pytest.mark.slow
def test_a_first_process_that_is_killed_is_spoken_for(bench):
    process = launched(bench, "run", str(bench.folder / "two.yaml"), "--set", "budget.steps=100000")
    children = []
    while process.poll() is None and len(children) < 2:
        children = psutil.Process(process.pid).children()
        time.sleep(0.05)
    first = next(c for c in children if c.environ().get("RANK") == "0")
    first.kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == errors.PartedError.code
    assert "process 1 of 2: ended by SIGKILL" in said and "tunewright resume" in said


@pytest.mark.slow
def test_a_recipe_that_is_wrong_is_one_message(bench):
    process = launched(bench, "run", str(bench.folder / "two.yaml"), "--set", "train.learning_rat=1")
    _, said = process.communicate(timeout=600)
    assert process.returncode == errors.RecipeError.code and said.count("error:") == 1, said


@pytest.fixture
def several_here(monkeypatch):
    """As if two processes had been begun, and this was the first."""
    group = Group(0, 2, 0, 2)
    for place in (groups, several):
        monkeypatch.setattr(place, "present", lambda: group)
    return group


def test_what_one_process_does_is_refused_to_several(several_here):
    with pytest.raises(errors.TunewrightError, match="one process's work, and 2 were begun"):
        several.refuse("tunewright compare")
    with pytest.raises(errors.MethodError, match="'unic' keeps what it sees of a batch"):
        several.check([[("lora", SimpleNamespace(ranks=True)), ("unic", catalogue.load_method("unic"))]])
    several.check([[("lora", catalogue.load_method("lora"))]])


def test_names_that_are_no_numbers_are_told(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(errors.RecipeError, match="are no numbers"):
        groups.present.__wrapped__()
    monkeypatch.setenv("RANK", "1")
    made = groups.present.__wrapped__()
    assert (made.rank, made.size, made.first, made.many) == (1, 2, False, True)


def test_what_ended_another_process_is_told_by_the_command(tmp_path):
    said = tmp_path / "said"
    said.write_bytes(b"error: no such file\n")
    with said.open("rb") as file:
        assert launching._why(3, file) == "error: no such file"
        assert not launching._why(errors.PartedError.code, file) and not launching._why(0, file)
    assert launching._why(-9, None) == "ended by SIGKILL"


def test_a_process_that_waits_in_vain_says_for_whom(monkeypatch):
    monkeypatch.setattr(groups, "MEETS", datetime.timedelta(seconds=1))
    with launching.held_port() as port:
        for name, value in launching._names(0, 2, port).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(errors.ModelError, match="2 processes of this run did not meet"):
            Group(0, 2, 0, 2).join()


def test_what_stops_a_stage_is_the_first_process_s_word(monkeypatch):
    class Second(Group):
        def told(self, values):
            return [{"figures": {"loss": 1.0}, "rows": [[1.0, 1.0]]}, values]

    monkeypatch.setattr(stages, "present", lambda: Second(1, 2))
    monkeypatch.setattr(stages, "set_training", lambda model: None)
    spec = SimpleNamespace(keep_best="loss")
    callback = stages.TrainingCallback(None, spec, "main", 0, 0, evaluate=lambda loop: {"loss": 2.0})
    loop = SimpleNamespace(adapted=SimpleNamespace(outer=torch.nn.Linear(1, 1)))
    assert callback._evaluated(loop) == {"eval_loss": 1.0} and callback.row_losses == [[1.0, 1.0]]


def test_a_signal_that_comes_while_processes_tell_each_other_is_heard_at_the_next_step(monkeypatch):
    """A signal's handler runs between any two lines, also while the exchange waits for another process."""
    written: list[int] = []

    class Interrupting(Group):
        def told(self, values):
            callback.stop_requested = True
            return [values, {"stop": False}]

    monkeypatch.setattr(stages, "present", lambda: Interrupting(0, 2))
    monkeypatch.setattr(stages.TrainingCallback, "write", lambda self, loop: written.append(loop.step_number))
    spec = SimpleNamespace(eval_steps=None, logging_steps=100, save_steps=None)
    callback = stages.TrainingCallback(SimpleNamespace(path="run"), spec, "main", 0, 0)
    loop = SimpleNamespace(step_number=1, finished=lambda: False)
    callback(loop, {"step": 1})
    loop.step_number = 2
    with pytest.raises(errors.Interrupted, match="after step 2 of stage '[a-z]+', with a checkpoint"):
        callback(loop, {"step": 2})
    assert written == [2]
