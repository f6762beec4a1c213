"""Stopped at any moment and gone on with, a run ends in the bits of one that was never stopped.

Runs are processes that really die (`tests/running.py`).
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.resuming import FLUSH, READ, RECIPES, STEP, Bench, at, bench, bits, commands, same
from tunewright import errors
from tunewright.files import checkpoint

__all__ = ["bench", "commands"]


MOMENTS = [
    ("lora with dropout", at("tunewright.runs.results:command", 1)),  # while the command's imports go on
    ("lora with dropout", at("tunewright.runs.fresh:load", 1)),
    ("lora with dropout", at("tunewright.runs.work:Work.write_resolved", 1)),
    ("lora with dropout", at("tunewright.runs.meter:Meter.prepare_base", 1)),
    ("lora with dropout", at(STEP, 2)),
    ("lora with dropout", at(STEP, 6)),
    ("lora with dropout", at("tunewright.training.train:Loop.gradients", 6)),
    ("lora with dropout", at("tunewright.training.optim:Optimizers.step", 8)),
    ("lora with dropout", at(FLUSH, 14)),  # within the first checkpoint's files or the second's
    ("lora with dropout", at("os:rename", 2)),
    ("lora with dropout", at("tunewright.runs.stages:save_result", 1)),
    ("lora with dropout", at(READ, 1)),
    ("lora with dropout", at("tunewright.runs.artefacts:save", 1)),
    ("lora with dropout", at("tunewright.report.schema:Report.save", 1)),
    ("redrawn halves", at(STEP, 5)),
    ("redrawn halves", at(STEP, 8)),
    ("redrawn halves", at("tunewright.runs.stages:TrainingCallback.finish", 1)),
    ("sparse entries", at(STEP, 5)),
    ("sparse entries", at(STEP, 9)),
    ("fold", at("tunewright.training.carry:begin", 2)),
    ("fold", at(STEP, 9)),
    ("frozen", at(STEP, 8)),
    ("frozen", at(READ, 1)),
    ("training", at(STEP, 5)),
    ("training", at(STEP, 8)),
    ("half precision", at(STEP, 8)),
    ("early stopping", at("tunewright.runs.stages:save_result", 1)),
    ("base after a fold", at(STEP, 12)),
    ("blocks on disk", at(STEP, 6)),
    ("tasks", at("tunewright.runs.sequenced:note", 1)),
]
WIDEST = {*range(25)} - {0, 3, 5, 8, 9, 10, 13, 15, 17, 20, 21, 24}


def _parameters() -> list[Any]:
    return [
        pytest.param(name, fault, marks=pytest.mark.slow if i in WIDEST else ())
        for i, (name, fault) in enumerate(MOMENTS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"),
    _parameters(),
    ids=lambda x: x if isinstance(x, str) else f"{x['at'].partition(':')[2]}-{x['call']}",
)
def test_killed_and_resumed_ends_in_the_same_bits(bench: Bench, name: str, fault: dict[str, Any]) -> None:
    whole = bench.uninterrupted(name)
    out = f"killed-{MOMENTS.index((name, fault))}"
    done = bench.run(name, out, fault)
    assert done.code == -signal.SIGKILL, done.stderr
    done = bench.resume(out)
    assert done.code == 0, done.stderr
    same(whole, bench.folder / out)


def test_killed_again_and_again(bench: Bench) -> None:
    whole = bench.uninterrupted("redrawn halves")
    assert bench.run("redrawn halves", "often", at(STEP, 5)).code == -signal.SIGKILL
    for fault in (at(FLUSH, 3), at(STEP, 4), at(STEP, 3), at(READ, 1)):
        assert bench.resume("often", fault).code == -signal.SIGKILL
    assert bench.resume("often").code == 0
    same(whole, bench.folder / "often")
    assert json.loads((bench.folder / "often" / "progress.json").read_text())["resumed"] == 5


@pytest.mark.slow
def test_a_split_after_running_out_of_memory_is_repeated(bench: Bench) -> None:
    """The split of step 5 is recorded; the resumed run, with memory enough, splits it the same."""
    out_of_memory = at("tunewright.training.train:Loop.gradients", 5, "memory")
    whole = bench.uninterrupted("lora with dropout", out_of_memory)
    assert bits(whole) != bits(bench.uninterrupted("lora with dropout")), (
        "the split shows in the bits, else this test shows nothing"
    )
    assert bench.run("lora with dropout", "split", out_of_memory, at(STEP, 6)).code == -signal.SIGKILL
    assert json.loads((bench.folder / "split" / "progress.json").read_text())["splits"]["main"].keys() == {"4"}
    assert bench.resume("split").code == 0
    same(whole, bench.folder / "split")


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_has_its_own_code(bench: Bench) -> None:
    done = bench.run("lora with dropout", "stopped", at(STEP, 5, "term"))
    assert done.code == errors.INTERRUPTED and "tunewright resume" in done.stderr and "Traceback" not in done.stderr
    assert checkpoint.listed(bench.folder / "stopped")[-1][0] == 5
    assert bench.resume("stopped").code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tunewright.runs.fresh:load", "tunewright.runs.meter:Meter.prepare_base", READ])
def test_sigterm_outside_training_can_be_resumed_too(bench: Bench, moment: str) -> None:
    out = "stopped-" + moment.rpartition(":")[2]
    done = bench.run("lora with dropout", out, at(moment, 1, "term"))
    assert done.code == errors.INTERRUPTED and "Traceback" not in done.stderr, done.stderr
    assert bench.resume(out).code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / out)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["half", "flipped", "removed"])
def test_a_damaged_checkpoint_is_passed_over_and_named(bench: Bench, harm: str) -> None:
    assert bench.run("lora with dropout", harm, at(STEP, 9)).code == -signal.SIGKILL
    file = bench.folder / harm / "checkpoint-6" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content if harm == "flipped" else content[: len(content) // 2])
    if harm == "removed":
        file.unlink()
    done = bench.resume(harm)
    assert done.code == 0 and "going on from checkpoint-3" in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "checkpoint-6" in said and "optimizer.safetensors" in said
    same(bench.uninterrupted("lora with dropout"), bench.folder / harm)


@pytest.mark.slow
def test_a_pickled_checkpoint_is_never_read(bench: Bench) -> None:
    assert bench.run("lora with dropout", "pickled", at(STEP, 9)).code == -signal.SIGKILL
    (bench.folder / "pickled" / "checkpoint-6" / "optimizer.pt").write_bytes(b"\x80\x04K\x01.")
    done = bench.resume("pickled")
    assert (
        done.code == 0
        and "'optimizer.pt' is a pickle, which can run code" in done.stderr
        and "going on from checkpoint-3" in done.stderr
    )
    same(bench.uninterrupted("lora with dropout"), bench.folder / "pickled")


@pytest.mark.slow
def test_a_damaged_result_of_a_stage_is_made_again(bench: Bench) -> None:
    assert bench.run("fold", "stage-damaged", at(STEP, 9)).code == -signal.SIGKILL
    file = bench.folder / "stage-damaged" / "stages" / "first" / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    done = bench.resume("stage-damaged")
    assert done.code == 0 and "stages/first" in done.stderr, done.stderr
    same(bench.uninterrupted("fold"), bench.folder / "stage-damaged")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "says"), [("full", "the disk is full"), ("denied", "cannot be written"), ("limit", "too large")]
)
def test_a_write_that_fails_loses_no_earlier_checkpoint(bench: Bench, do: str, says: str) -> None:
    bench.uninterrupted("lora with dropout")  # rows and the base's figures are cached: what is renamed is the run's
    done = bench.run("lora with dropout", do, at(STEP, 5, do) if do == "limit" else at("os:rename", 2, do))
    assert done.code == errors.FolderError.code and says in done.stderr and "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert [s for s, _ in checkpoint.listed(bench.folder / do)] == [3]
    assert bench.resume(do).code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / do)


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_metrics_too(bench: Bench) -> None:
    done = bench.run("lora with dropout", "full-metrics", at(STEP, 5, "tight"))
    assert done.code == errors.FolderError.code and "Traceback" not in done.stderr, done.stderr
    assert bench.resume("full-metrics").code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / "full-metrics")


@pytest.mark.slow
def test_a_live_runs_folder_is_locked(bench: Bench) -> None:
    file = bench.write("lora with dropout", RECIPES["lora with dropout"])
    live = bench.commands.start(bench.folder, ["run", file, "--out", "live"], at(STEP, 5, "sleep"))
    (elsewhere := bench.folder / "elsewhere").mkdir(exist_ok=True)
    try:
        deadline = time.monotonic() + 200
        while not list((bench.folder / "live").glob("checkpoint-3")):
            assert time.monotonic() < deadline, (bench.folder / ".stderr").read_text()
            time.sleep(0.05)
        for command in (
            ["resume", "../live"],
            ["resume", "../live", "--verify"],
            ["run", f"../{file}", "--out", "../live"],
        ):
            done = bench.commands(elsewhere, command)
            assert done.code == errors.FolderError.code and f"live run (process {live})" in done.stderr, done.stderr
    finally:
        os.kill(live, signal.SIGKILL)
        bench.commands.wait(bench.folder, live)
    assert bench.resume("live").code == 0, "a dead process's lock is free"
    same(bench.uninterrupted("lora with dropout"), bench.folder / "live")
