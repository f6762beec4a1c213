"""Stopped at any moment and gone on with, a run ends in the bits of one that was never stopped.

Runs are processes that really die (`tests/running.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.running import HERE, Commands
from tests.small import write_inputs
from tunewright import errors
from tunewright.files import checkpoint

PLAIN: dict[str, Any] = {
    "model": "./base",
    "task": "text-generation",
    "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 64},
    "keep": ["keep.txt"],
    "train": {
        "learning_rate": 1e-2,
        "batch_tokens": 192,
        "micro_tokens": 96,
        "save_steps": 3,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    },
    "measurement": {"drift_sequences": 2, "drift_tokens": 8, "max_new_tokens": 3, "few_shot": 0, "strengths": [1]},
}
LORA = {"lora": {"rank": 2, "dropout": 0.2}}


def recipe(
    methods: list[Any] | None = None, stages: list[dict[str, Any]] | None = None, **train: Any
) -> dict[str, Any]:
    body = {"stages": stages} if stages else {"methods": methods, "budget": {"steps": 10}}
    return {**PLAIN, "train": {**PLAIN["train"], **train}, **body}


def two(carry: str) -> list[dict[str, Any]]:
    return [
        {"name": "first", "methods": [LORA], "budget": {"steps": 4}},
        {"name": "second", "start": "stages.first", "carry": carry, "methods": [LORA], "budget": {"steps": 5}},
    ]


RECIPES = {
    "lora with dropout": recipe([LORA]),
    "redrawn halves": recipe([{"hft": {"round_steps": 2}}], eval_steps=3, keep_best="loss"),
    "sparse entries": recipe(
        [{"lift": {"refresh_steps": 3, "rank": 2, "filter_rank": 4}}], optimizer="sgd", momentum=0.9
    ),
    "half precision": recipe([{"hft": {"round_steps": 2}}], precision="bfloat16"),
    "early stopping": recipe(
        [{"hft": {"round_steps": 1}}],
        eval_steps=1,
        save_steps=1,
        early_stopping=1,
        keep_best="loss",
        learning_rate=0.3,
        lr_scheduler_type="constant",
        warmup_steps=0,
    ),
    "fold": recipe(stages=two("fold"), save_steps=2),
    "frozen": recipe(stages=two("frozen"), save_steps=2),
    "training": recipe(stages=two("training"), save_steps=2),
}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


class Bench:
    """A folder with inputs, in which commands run, and the uninterrupted run of each recipe."""

    def __init__(self, folder: Path, commands: Commands):
        self.folder, self.commands, self.whole = folder, commands, dict[str, Path]()
        write_inputs(folder, train=60, test=4)

    def write(self, name: str, content: dict[str, Any]) -> str:
        file = name.replace(" ", "-") + ".yaml"
        (self.folder / file).write_text(yaml.safe_dump(content))
        return file

    def run(self, name: str, out: str, *faults: dict[str, Any], **more: Any) -> Any:
        return self.commands(self.folder, ["run", self.write(name, RECIPES[name]), "--out", out], *faults, **more)

    def resume(self, out: str, *faults: dict[str, Any], verify: bool = False) -> Any:
        return self.commands(self.folder, ["resume", out, *(["--verify"] if verify else [])], *faults)

    def uninterrupted(self, name: str, *faults: dict[str, Any]) -> Path:
        key = name + json.dumps(faults)
        if key not in self.whole:
            out = f"whole-{len(self.whole)}"
            done = self.run(name, out, *faults)
            assert done.code == 0, done.stderr
            self.whole[key] = self.folder / out
        return self.whole[key]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Bench:
    return Bench(tmp_path_factory.mktemp("resume"), commands)


def bits(run: Path) -> dict[str, str]:
    """Hashes of everything that a run's result is made of."""
    files = [
        *run.glob("stages/*/trained.safetensors"),
        *run.glob("adapter/*"),
        *run.glob("delta.*"),
        run / "rows.jsonl",
    ]
    return {str(f.relative_to(run)): hashlib.sha256(_content(f)).hexdigest() for f in files}


def _content(file: Path) -> bytes:
    """A file's bytes; of safetensors every tensor by name, since the order of their metadata is not fixed."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    tensors = load_file(file)
    parts = [
        (n, str((t.dtype, tuple(t.shape))), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for n, t in sorted(tensors.items())
    ]
    return repr(parts).encode()


def metrics(run: Path) -> list[dict[str, Any]]:
    """The logged records, stage by stage, without the one value that a clock decides."""
    found = [
        {k: v for k, v in json.loads(line).items() if k != "tokens_per_second"}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return sorted(found, key=lambda m: m["stage"])


def same(a: Path, b: Path) -> None:
    """Both ended in the same bits, logged the same steps once each, and left nothing half-written."""
    assert bits(a) == bits(b) and len(bits(a)) >= 3
    assert metrics(a) == metrics(b)
    steps = [(m["stage"], m["step"]) for m in metrics(b) if "learning_rate" in m]
    assert len(steps) == len(set(steps))
    ours, theirs = (json.loads((p / "report.json").read_text()) for p in (a, b))
    for key in ("target", "kept", "drift", "trade", "trained"):
        assert ours[key] == theirs[key], key
    assert not [p for p in b.rglob(".*") if p.name != ".lock"]


def at(where: str, call: int, do: str = "kill") -> dict[str, Any]:
    return {"at": where, "call": call, "do": do}


STEP, FLUSH = "tunewright.training.train:Loop.one_step", "tunewright.files.checkpoint:flush"
READ = "tunewright.runs.meter:Meter.read"

MOMENTS = [
    ("lora with dropout", at("tunewright.runs.results:command", 1)),  # while the command's imports go on
    ("lora with dropout", at("tunewright.runs.assemble:load", 1)),
    ("lora with dropout", at("tunewright.runs.run:_Run.write_resolved", 1)),
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
    ("redrawn halves", at("tunewright.runs.stages:Keeper.finish", 1)),
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
]
WIDEST = {*range(25)} - {0, 3, 5, 8, 9, 10, 13, 15, 17, 20, 21, 24}


def _parameters() -> list[Any]:
    return [
        pytest.param(name, fault, marks=pytest.mark.slow if i in WIDEST else ())
        for i, (name, fault) in enumerate(MOMENTS)
    ]


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


def test_sigterm_writes_a_checkpoint_and_has_its_own_code(bench: Bench) -> None:
    done = bench.run("lora with dropout", "stopped", at(STEP, 5, "term"))
    assert done.code == errors.INTERRUPTED and "tunewright resume" in done.stderr and "Traceback" not in done.stderr
    assert checkpoint.listed(bench.folder / "stopped")[-1][0] == 5
    assert bench.resume("stopped").code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / "stopped")


@pytest.mark.parametrize("moment", ["tunewright.runs.assemble:load", "tunewright.runs.meter:Meter.prepare_base", READ])
def test_sigterm_outside_training_can_be_resumed_too(bench: Bench, moment: str) -> None:
    out = "stopped-" + moment.rpartition(":")[2]
    done = bench.run("lora with dropout", out, at(moment, 1, "term"))
    assert done.code == errors.INTERRUPTED and "Traceback" not in done.stderr, done.stderr
    assert bench.resume(out).code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / out)


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


def test_a_damaged_result_of_a_stage_is_made_again(bench: Bench) -> None:
    assert bench.run("fold", "stage-damaged", at(STEP, 9)).code == -signal.SIGKILL
    file = bench.folder / "stage-damaged" / "stages" / "first" / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    done = bench.resume("stage-damaged")
    assert done.code == 0 and "stages/first" in done.stderr, done.stderr
    same(bench.uninterrupted("fold"), bench.folder / "stage-damaged")


@pytest.mark.parametrize(
    ("do", "says"), [("full", "the disk is full"), ("denied", "cannot be written"), ("limit", "too large")]
)
def test_a_write_that_fails_loses_no_earlier_checkpoint(bench: Bench, do: str, says: str) -> None:
    done = bench.run("lora with dropout", do, at(STEP, 5, do) if do == "limit" else at("os:rename", 2, do))
    assert done.code == errors.FolderError.code and says in done.stderr and "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert [s for s, _ in checkpoint.listed(bench.folder / do)] == [3]
    assert bench.resume(do).code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / do)


def test_a_disk_that_is_full_for_the_metrics_too(bench: Bench) -> None:
    done = bench.run("lora with dropout", "full-metrics", at(STEP, 5, "tight"))
    assert done.code == errors.FolderError.code and "Traceback" not in done.stderr, done.stderr
    assert bench.resume("full-metrics").code == 0
    same(bench.uninterrupted("lora with dropout"), bench.folder / "full-metrics")


def test_a_live_runs_folder_is_locked(bench: Bench) -> None:
    file = bench.write("lora with dropout", RECIPES["lora with dropout"])
    live = bench.commands.start(bench.folder, ["run", file, "--out", "live"], at(STEP, 5, "sleep"))
    (elsewhere := bench.folder / "elsewhere").mkdir(exist_ok=True)
    try:
        deadline = time.monotonic() + 20
        while not list((bench.folder / "live").glob("checkpoint-3")) and time.monotonic() < deadline:
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


@pytest.mark.parametrize("name", ["lora with dropout", "half precision", "training"])
def test_verify_finds_equal_bits(bench: Bench, name: str) -> None:
    run = bench.uninterrupted(name)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    done = bench.resume(run.name, verify=True)
    assert done.code == 0 and "equal in every bit" in done.stderr, done.stderr
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}, (
        "verifying writes nothing"
    )


@pytest.mark.parametrize("which", ["trained", "optimizer"])
def test_verify_finds_a_checkpoint_that_was_altered_with_its_hashes(bench: Bench, which: str) -> None:
    out = f"altered-{which}"
    assert bench.run("lora with dropout", out).code == 0
    folder = bench.folder / out / "checkpoint-9"
    tensors = load_file(folder / f"{which}.safetensors")
    name = sorted(n for n, t in tensors.items() if t.numel() > 1)[0]
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, folder / f"{which}.safetensors")
    done = bench.resume(out, verify=True)
    assert done.code == errors.CheckpointError.code and "differs from its hash" in done.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[f"{which}.safetensors"] = checkpoint.sha256_of(folder / f"{which}.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = bench.resume(out, verify=True)
    assert done.code == errors.CheckpointError.code and name in done.stderr and "steps 6 to 9" in done.stderr, (
        done.stderr
    )


def test_verify_needs_two_checkpoints(bench: Bench) -> None:
    assert bench.run("lora with dropout", "one", at(STEP, 5)).code == -signal.SIGKILL
    done = bench.resume("one", verify=True)
    assert done.code == errors.CheckpointError.code and "two checkpoints" in done.stderr and "save_steps" in done.stderr


@pytest.mark.parametrize("name", ["lora with dropout", "redrawn halves", "frozen"])
def test_the_resolved_recipe_runs_to_the_same_bits(bench: Bench, name: str) -> None:
    whole = bench.uninterrupted(name)
    again = "again-" + name.replace(" ", "-")
    done = bench.commands(bench.folder, ["run", str(whole / "recipe.yaml"), "--out", again])
    assert done.code == 0, done.stderr
    same(whole, bench.folder / again)
    assert (whole / "recipe.yaml").read_text() == (bench.folder / again / "recipe.yaml").read_text()


@pytest.mark.parametrize("what", ["base/model.safetensors", "train.jsonl"])
def test_other_weights_or_rows_are_not_gone_on_with(tmp_path: Path, commands: Commands, what: str) -> None:
    bench = Bench(tmp_path, commands)
    assert bench.run("lora with dropout", "out", at(STEP, 5)).code == -signal.SIGKILL
    file = tmp_path / what
    if what.endswith("jsonl"):
        file.write_text("\n".join(file.read_text().splitlines()[1:]))
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    done = bench.resume("out")
    assert (
        done.code == errors.CheckpointError.code
        and "the run began with" in done.stderr
        and "Traceback" not in done.stderr
    ), done.stderr
    assert [s for s, _ in checkpoint.listed(tmp_path / "out")] == [3]


def test_no_runs_folder(bench: Bench) -> None:
    (bench.folder / "empty").mkdir(exist_ok=True)
    for name in ("empty", "no-such-folder"):
        done = bench.resume(name)
        assert done.code == errors.FolderError.code and "no run's folder" in done.stderr
    assert not any((bench.folder / "empty").iterdir())


def test_the_best_weights_are_put_back_whole(bench: Bench) -> None:
    """What was drawn for the first time after the best step goes back to the base with the rest."""
    wild = {"learning_rate": 0.3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    through = recipe([{"hft": {"round_steps": 1}}], eval_steps=1, keep_best="loss", **wild)
    done = bench.commands(bench.folder, ["run", bench.write("through", through), "--out", "through"])
    assert done.code == 0, done.stderr
    kept = json.loads((bench.folder / "through" / "stages" / "main" / "state.json").read_text())["result"]["kept_step"]
    assert kept and kept < 10, "training got worse, so that an earlier step is kept"
    short = {**recipe([{"hft": {"round_steps": 1}}], **wild), "budget": {"steps": kept}}
    assert bench.commands(bench.folder, ["run", bench.write("short", short), "--out", "short"]).code == 0
    a, b = (json.loads((bench.folder / n / "report.json").read_text()) for n in ("through", "short"))
    assert a["drift"] == b["drift"] and a["kept"] == b["kept"] and a["target"] == b["target"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 4.0, 8.0])
def test_the_console_script_killed_from_outside_at_any_time(bench: Bench, tmp_path: Path, seconds: float) -> None:
    """The real thing: a fresh process, killed while it imports, measures or trains."""
    write_inputs(tmp_path, train=60, test=4)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPES["lora with dropout"]))
    code = "from tunewright.commands.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": str(HERE), "TUNEWRIGHT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "r.yaml", "--out", "out", "-q"], cwd=tmp_path, env=env
    )
    time.sleep(seconds)
    process.kill()
    if process.wait() == 0:
        pytest.skip("this machine finished the run before it was killed")
    assert (tmp_path / "out" / "recipe.yaml").exists(), "the recipe is written before anything heavy is imported"
    assert subprocess.run([sys.executable, "-c", code, "resume", "out", "-q"], cwd=tmp_path, env=env).returncode == 0
    assert bits(bench.uninterrupted("lora with dropout")).keys() == bits(tmp_path / "out").keys()
    whole = bench.uninterrupted("lora with dropout")
    assert {n: h for n, h in bits(whole).items() if n.endswith("safetensors")} == {
        n: h for n, h in bits(tmp_path / "out").items() if n.endswith("safetensors")
    }
