"""`resume --verify`, the resolved recipe run again, and runs stopped from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.resuming import RECIPES, STEP, Bench, at, bench, bits, commands, recipe, same
from tests.running import HERE, Commands
from tests.small import write_inputs
from tunewright import errors
from tunewright.files import checkpoint

__all__ = ["bench", "commands"]


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
