"""`resume --verify`, the resolved recipe run again, and runs stopped from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.resuming import RECIPES, STEP, Bench, at, bench, bits, commands, recipe, same
from tests.running import HERE, Commands
from tests.small import write_inputs
from tunewright import errors
from tunewright.files import checkpoint
from tunewright.files.stamp import stamp
from tunewright.finished.folders import held
from tunewright.report.schema import Report
from tunewright.runs import intact
from tunewright.runs.folder import RunFolder
from tunewright.runs.stages import recalled

__all__ = ["bench", "commands"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_verify_of_an_unfinished_run(bench: Bench) -> None:
    assert bench.run("lora with dropout", "none", at(STEP, 2)).code == -signal.SIGKILL
    done = bench.resume("none", verify=True)
    assert done.code == errors.CheckpointError.code and "nothing to verify" in done.stderr, done.stderr
    assert bench.run("lora with dropout", "one", at(STEP, 5)).code == -signal.SIGKILL
    done = bench.resume("one", verify=True)
    assert done.code == 0 and "steps 0 to 3" in done.stderr and "equal in every bit" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("lora with dropout", "6 to 10"),
        ("redrawn halves", "6 to 10"),
        ("early stopping", "5 to 7"),
        ("frozen", "2 to 5"),
    ],
)
def test_verify_goes_to_the_end(bench: Bench, name: str, steps: str) -> None:
    """Best weights put back, stages carried, stopped early: the finished stage comes out again."""
    run = bench.uninterrupted(name)
    done = bench.resume(run.name, verify=True)
    assert done.code == 0 and f"steps {steps}" in done.stderr and "files are as the report says" in done.stderr, (
        done.stderr
    )


def spoiled(bench: Bench, tmp_path: Path, name: str = "lora with dropout") -> tuple[Bench, Path]:
    """A copy of a finished run, among the same inputs."""
    folder = tmp_path / "run"
    shutil.copytree(bench.uninterrupted(name), folder)
    return bench, folder


def flip(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


FILES = (
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
    "stages/main/trained.safetensors",
    "stages/main/manifest.json",
    "stages/main/state.json",
    "rows.jsonl",
    "metrics.jsonl",
    "report.html",
    "begun.json",
    "progress.json",
)


def test_a_report_names_every_file_that_a_run_leaves(bench: Bench) -> None:
    run = bench.uninterrupted("lora with dropout")
    hashes = json.loads((run / "report.json").read_text())["hashes"]
    assert set(FILES) <= hashes.keys()
    there = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and "checkpoint-" not in str(p)}
    assert there == {*hashes, "report.json", "recipe.yaml", ".lock"}


def test_equal_runs_leave_equal_files(bench: Bench) -> None:
    """All but what tells the time: pages, logged seconds, and how far the run is."""
    assert bench.run("training", "again").code == 0
    runs = bench.uninterrupted("training"), bench.folder / "again"
    hashes = [json.loads((run / "report.json").read_text())["hashes"] for run in runs]
    timed = {"report.html", "metrics.jsonl", "progress.json"}
    first, second = ({n: h for n, h in of.items() if n not in timed} for of in hashes)
    assert first == second and "stages/first/state.json" in first and "stages/second/state.json" in first
    assert json.loads((runs[0] / "progress.json").read_text())["stage_seconds"].keys() == {"first", "second"}


def test_seconds_of_stages_are_reported_from_where_they_were_and_are_written(bench: Bench, tmp_path: Path) -> None:
    bench, run = spoiled(bench, tmp_path)
    progress = json.loads((run / "progress.json").read_text())
    seconds = progress.pop("stage_seconds")["main"]
    assert seconds > 0 and Report.load(run).stages[0].seconds == seconds
    state = checkpoint.read(run / "stages/main").state
    assert recalled(RunFolder(run), "main", state).seconds == seconds
    (run / "progress.json").write_text(json.dumps(progress))
    state["result"]["seconds"] = 7.5  # as earlier versions wrote it
    assert recalled(RunFolder(run), "main", state).seconds == 7.5


ADDED = ("adapter/more.safetensors", "adapter/deep/er.json", "stages/main/.hidden", "stages/other/manifest.json")


@pytest.mark.parametrize("file", ADDED)
def test_a_file_added_where_all_files_are_read_does_not_verify(bench: Bench, tmp_path: Path, file: str) -> None:
    bench, run = spoiled(bench, tmp_path)
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text("{}")
    for arguments in (["resume", str(run), "--verify"], ["export", str(run), "--out", str(tmp_path / "model")]):
        done = bench.commands(bench.folder, arguments)
        assert done.code == errors.CheckpointError.code and f"{file} was added" in done.stderr, done.stderr


@pytest.mark.slow
def test_files_beside_the_runs_own_are_named(bench: Bench, tmp_path: Path) -> None:
    bench, run = spoiled(bench, tmp_path)
    assert bench.commands(bench.folder, ["export", str(run)]).code == 0  # its model/ is known
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events").write_text("")
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == 0 and "files are as the report says; steps" in done.stderr, done.stderr
    (run / "notes.txt").write_text("mine")
    (run / "checkpoint-9" / "extra.json").write_text("{}")
    (run / "link").symlink_to(tmp_path)
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == 0 and "checkpoint-9/extra.json, link, notes.txt" in done.stderr, done.stderr
    done = bench.commands(bench.folder, ["export", str(run), "--out", str(tmp_path / "model")])
    assert done.code == 0 and "notes.txt" in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("file", FILES)
def test_an_altered_file_does_not_verify_and_is_not_exported(bench: Bench, tmp_path: Path, file: str) -> None:
    bench, run = spoiled(bench, tmp_path)
    if file.endswith(".html"):
        (run / file).write_text((run / file).read_text() + " ")
    else:
        flip(run / file, len((run / file).read_bytes()) // 2)
    for arguments in (["resume", str(run), "--verify"], ["export", str(run), "--out", str(tmp_path / "model")]):
        done = bench.commands(bench.folder, arguments)
        assert done.code == errors.CheckpointError.code and f"{file} was altered" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "model").exists()


def test_a_recipe_edited_after_the_run_is_not_exported(bench: Bench, tmp_path: Path) -> None:
    bench, run = spoiled(bench, tmp_path)
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("rank: 2", "rank: 8"))
    for arguments in (["resume", str(run), "--verify"], ["export", str(run), "--out", str(tmp_path / "model")]):
        done = bench.commands(bench.folder, arguments)
        assert done.code == errors.CheckpointError.code and "lora.rank: 8 (was 2)" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a figure", lambda r: r["target"]["after"].update(value=0.99)),
        ("a note", lambda r: r["notes"].append("all is well")),
        ("a hash", lambda r: r["hashes"].update({"rows.jsonl": "0" * 64})),
        ("no seal", lambda r: r.pop("seal")),
        ("no hashes", lambda r: r.pop("hashes")),
    ],
)
def test_an_altered_report_does_not_verify(bench: Bench, tmp_path: Path, what: str, change: Any) -> None:
    bench, run = spoiled(bench, tmp_path)
    report = json.loads((run / "report.json").read_text())
    change(report)
    (run / "report.json").write_text(json.dumps(report))
    for arguments in (
        ["resume", str(run), "--verify"],
        ["export", str(run), "--out", str(tmp_path / "model")],
        ["gate", str(run), "--require", "drift <= 1000"],
    ):
        done = bench.commands(bench.folder, arguments)
        assert done.code == errors.CheckpointError.code and "report.json was altered" in done.stderr, done.stderr
    there = held(run)
    assert there.state == "unreadable" and "was altered" in there.problem and there.target is None


def test_another_layout_of_the_report_and_missing_pages_are_no_alteration(bench: Bench, tmp_path: Path) -> None:
    bench, run = spoiled(bench, tmp_path)
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(report, sort_keys=True))
    for name in ("report.html", "rows.jsonl", "metrics.jsonl", "progress.json"):
        (run / name).unlink()
    assert bench.commands(bench.folder, ["export", str(run), "--out", str(tmp_path / "model")]).code == 0
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == errors.CheckpointError.code and "rows.jsonl" in done.stderr


def test_without_its_report_a_run_is_no_more_than_what_comes_out_again(bench: Bench, tmp_path: Path) -> None:
    bench, run = spoiled(bench, tmp_path)
    (run / "report.json").unlink()
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == 0 and "no report vouches for the run's other files" in done.stderr, done.stderr
    flip(run / "adapter/adapter_model.safetensors")
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == errors.CheckpointError.code and "adapter_model.safetensors" in done.stderr, done.stderr


@pytest.mark.parametrize("file", ["stages/main/trained.safetensors", "adapter/adapter_model.safetensors"])
def test_weights_altered_with_every_hash_made_anew_are_found_by_computing(
    bench: Bench, tmp_path: Path, file: str
) -> None:
    bench, run = spoiled(bench, tmp_path)
    flip(run / file)
    if file.startswith("stages"):
        manifest = json.loads((run / "stages/main/manifest.json").read_text())
        manifest["trained.safetensors"] = checkpoint.sha256_of(run / file)
        (run / "stages/main/manifest.json").write_text(json.dumps(manifest))
    report = Report.load(run)
    report.hashes = intact.hashes_of(run)
    report.save(run)
    done = bench.commands(bench.folder, ["resume", str(run), "--verify"])
    assert done.code == errors.CheckpointError.code and "computed again, differ" in done.stderr, done.stderr
    assert Path(file).stem in done.stderr


def test_verify_reads_every_byte_of_the_base(bench: Bench, tmp_path: Path) -> None:
    """Where the cache still knows weights by a stamp that tells nothing."""
    run = bench.uninterrupted("lora with dropout")
    known = next(p for p in (bench.folder / "cache/hashes").glob("*.json") if "sha256" in json.loads(p.read_text()))
    file = bench.folder / "base" / "model.safetensors"
    before, cached = file.read_bytes(), known.read_text()
    try:
        flip(file)
        values = json.loads(cached)
        values["files"] = [[str(file.resolve()), *stamp(file)]]  # the cache is made to believe in the altered file
        known.write_text(json.dumps(values))
        done = bench.resume(run.name, verify=True)
    finally:
        file.write_bytes(before)
        known.write_text(cached)
    assert done.code == errors.CheckpointError.code and "weights are not those" in done.stderr, done.stderr


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


@pytest.mark.slow
def test_the_best_weights_are_put_back_whole(bench: Bench) -> None:
    """What was drawn for the first time after the best step goes back to the base with the rest."""
    wild = {"learning_rate": 0.3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    through = recipe([{"hft": {"round_steps": 1}}], eval_steps=1, keep_best="loss", **wild)
    done = bench.commands(bench.folder, ["run", bench.write("through", through), "--out", "through"])
    assert done.code == 0, done.stderr
    kept = json.loads((bench.folder / "through" / "stages" / "main" / "state.json").read_text())["result"]["best_step"]
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
