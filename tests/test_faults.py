"""Faults of the machine under a command, each really there: one message, its code, and nothing lost."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.resuming import PLAIN, RECIPES, STEP, Bench, at, bits, commands, moved
from tests.running import HERE, Commands, Done
from tunewright import errors

__all__ = ["commands"]

FOLDER, DATA, MODEL = errors.FolderError.code, errors.DataError.code, errors.ModelError.code
CHECKPOINT, RECIPE = errors.CheckpointError.code, errors.RecipeError.code


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Bench:
    """`whole`, a finished run, and `killed`, which has a checkpoint, beside their inputs."""
    made = Bench(tmp_path_factory.mktemp("faults"), commands)
    made.write("r", RECIPES["lora with dropout"])
    assert made.commands(made.folder, ["run", "r.yaml", "--out", "whole"]).code == 0
    done = made.commands(made.folder, ["run", "r.yaml", "--out", "killed"], at(STEP, 5))
    assert done.code == -signal.SIGKILL, done.stderr
    return made


@pytest.fixture
def place(bench: Bench, tmp_path: Path) -> Path:
    """A copy of all in a place of its own, its runs' recipes led there."""
    return moved(bench, tmp_path / "in", "whole", "killed")


def says_one_thing(done: Done, *codes: int) -> str:
    """One message, with what to do, under one of these codes."""
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr and done.code in codes, (done.code, done.stderr)
    assert len(said) == 1 and "\n  -> " in done.stderr, done.stderr
    return done.stderr


# -- What is no file ---------------------------------------------------------------------------------------------------

WEIGHTS = "whole/adapter/adapter_model.safetensors"
RUN, RESUME, EXPORT = ("run", "r.yaml", "--out", "o"), ("resume", "killed"), ("export", "whole", "--out", "m")
NO_FILES: list[tuple[tuple[str, ...], str, tuple[int, ...]]] = [
    (RUN, "r.yaml", (RECIPE,)),
    (RUN, "train.jsonl", (DATA,)),
    (RUN, "keep.txt", (DATA,)),
    (RUN, "base/config.json", (MODEL,)),
    (RUN, "base/model.safetensors", (MODEL,)),
    (RUN, "base/tokenizer.json", (MODEL,)),
    (RUN, "base/chat_template.jinja", (MODEL,)),
    (("check", "r.yaml"), "train.jsonl", (DATA,)),
    (("check", "r.yaml"), "base/tokenizer.json", (MODEL,)),
    (("init", "base", "train.jsonl", "--out", "new.yaml"), "train.jsonl", (DATA,)),
    (RESUME, "killed/recipe.yaml", (RECIPE,)),
    (RESUME, "killed/progress.json", (CHECKPOINT,)),
    (RESUME, "killed/begun.json", (CHECKPOINT,)),
    (RESUME, "killed/metrics.jsonl", (CHECKPOINT,)),
    (EXPORT, "whole/recipe.yaml", (RECIPE, CHECKPOINT)),
    (EXPORT, "whole/report.json", (FOLDER,)),
    (EXPORT, "whole/stages/main/manifest.json", (CHECKPOINT,)),
    (EXPORT, "whole/stages/main/trained.safetensors", (CHECKPOINT,)),
    (("chat", "whole"), "whole/stages/main/state.json", (CHECKPOINT,)),
    (("resume", "whole"), "whole/report.json", (FOLDER,)),
    (("resume", "whole", "--verify"), "whole/rows.jsonl", (CHECKPOINT,)),
    (("merge", "m.yaml", "--out", "m"), "m.yaml", (RECIPE,)),
    (("compare", "r.yaml", "--methods", "m.yaml", "--out", "m"), "m.yaml", (RECIPE,)),
    (("merge", "base", "base", "--method", "linear", "--out", "m"), "base/model.safetensors", (MODEL,)),
    (("merge", "whole/adapter", "--base", "base", "--method", "linear", "--out", "m"), WEIGHTS, (MODEL,)),
    (("merge", "whole", "whole", "--method", "linear", "--out", "m"), "whole/adapter/adapter_config.json", (MODEL,)),
]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize(("arguments", "file", "codes"), NO_FILES, ids=lambda x: x if isinstance(x, str) else None)
def test_a_pipe_or_a_folder_where_a_file_should_be(
    bench: Bench, place: Path, arguments: tuple[str, ...], file: str, codes: tuple[int, ...], kind: str
) -> None:
    (place / file).unlink(missing_ok=True)
    (os.mkfifo if kind == "pipe" else os.mkdir)(place / file)
    done = bench.commands(place, arguments)
    if arguments[0] == "check" and file == "train.jsonl":  # a finding of its report
        assert done.code == DATA and "refused" in done.stdout and "Traceback" not in done.stderr, done
    else:
        says_one_thing(done, *codes)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_checkpoint_of_pipes_is_passed_over(bench: Bench, place: Path, kind: str) -> None:
    (place / "killed/checkpoint-3/manifest.json").unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(place / "killed/checkpoint-3/manifest.json")
    done = bench.commands(place, RESUME)
    assert done.code == 0 and "using the checkpoint before it" in done.stderr, done.stderr
    assert (place / "killed/adapter/adapter_model.safetensors").read_bytes() == (
        place / "whole/adapter/adapter_model.safetensors"
    ).read_bytes()


# -- Paths -------------------------------------------------------------------------------------------------------------

LONG, DEEP = "x" * 300, "/".join(["y" * 200] * 30)
PATHS: dict[str, Callable[[str], dict[str, Any]]] = {
    "model": lambda p: {"model": p},
    "data.train": lambda p: {"data": {**PLAIN["data"], "train": p}},
    "data.eval": lambda p: {"data": {**PLAIN["data"], "eval": [p]}},
    "data.replay": lambda p: {"data": {**PLAIN["data"], "replay": {p: 0.1}}},
    "keep": lambda p: {"keep": [p]},
    "start": lambda p: {
        "stages": [{"name": "a", "methods": ["lora"], "start": p}],
        "methods": None,
    },
}


@pytest.mark.parametrize(
    "path", [f"./{LONG}", f"./{DEEP}", "~nosuchuser/x", "./a\0b"], ids=["long", "deep", "~", "nul"]
)
@pytest.mark.parametrize("key", PATHS)
def test_paths_in_recipes_that_no_disk_has(bench: Bench, place: Path, key: str, path: str) -> None:
    tree = {**RECIPES["lora with dropout"], **PATHS[key](path)}
    if "stages" in tree:
        tree = {k: v for k, v in tree.items() if k not in ("methods", "budget")}
    (place / "r.yaml").write_text(yaml.safe_dump(tree))
    said = says_one_thing(bench.commands(place, RUN), RECIPE)
    assert "r.yaml:" in said and len(said) < 1000, said
    assert not (place / "o").exists()


ARGUMENTS = [
    ("run", "{}"),
    ("run", "r.yaml", "--out", "{}"),
    ("resume", "{}"),
    ("export", "{}"),
    ("export", "whole", "--out", "{}"),
    ("chat", "{}"),
    ("check", "{}"),
    ("check", "r.yaml", "--clean", "{}"),
    ("plan", "{}"),
    ("init", "{}", "train.jsonl", "--out", "a.yaml"),
    ("init", "base", "{}", "--out", "a.yaml"),
    ("init", "base", "train.jsonl", "--out", "{}"),
    ("merge", "{}", "base", "--method", "linear", "--out", "m"),
    ("merge", "base", "base", "--method", "linear", "--out", "{}"),
    ("compare", "{}"),
]


@pytest.mark.parametrize("path", [LONG, f"./{DEEP}"], ids=["long", "deep"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda a: " ".join(a))
def test_arguments_that_are_too_long_for_a_path(
    bench: Bench, place: Path, arguments: tuple[str, ...], path: str
) -> None:
    if arguments[0] == "init" and arguments[1] == "{}":
        pytest.skip("init writes the model's name down and looks nothing up")
    done = bench.commands(place, [a.replace("{}", path) for a in arguments])
    says_one_thing(done, RECIPE, DATA, MODEL, FOLDER)


# -- A cache that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["/proc/nowhere", "{place}/train.jsonl", "/dev/null/x", "{place}/" + LONG])
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(bench: Bench, place: Path, cache: str) -> None:
    done = bench.commands(place, RUN, cache=Path(cache.replace("{place}", str(place))))
    assert done.code == 0 and "Traceback" not in done.stderr, done.stderr
    assert "were not kept" in done.stderr
    assert {n: h for n, h in bits(place / "o").items() if n.endswith("safetensors")} == {
        n: h for n, h in bits(place / "whole").items() if n.endswith("safetensors")
    }


def test_a_cache_that_is_full_costs_time_and_nothing_else(bench: Bench, place: Path) -> None:
    done = bench.commands(place, RUN, at("tunewright.data.store:Writer.finish", 1, "full"), cache=place / "new")
    assert done.code == 0 and "No space left" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_neither_cache_nor_temporary_folder(bench: Bench, place: Path) -> None:
    full = at("tempfile:mkdtemp", 1, "full")
    says_one_thing(bench.commands(place, RUN, full, cache=Path("/proc/nowhere")), FOLDER)


def test_a_cache_of_nobody(bench: Bench, place: Path) -> None:
    says_one_thing(bench.commands(place, RUN, cache=Path("~nosuchuser/cache")), FOLDER)


# -- A disk that is full -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_during_an_export(bench: Bench, place: Path, small_disk: Path) -> None:
    done = bench.commands(place, ["export", "whole", "--out", str(small_disk / "model")])
    assert "No space left" in says_one_thing(done, FOLDER)
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_while_rows_are_cleaned(bench: Bench, place: Path, small_disk: Path) -> None:
    row = json.dumps({"prompt": "lost card " * 20, "completion": "lost card"})
    (place / "train.jsonl").write_text("\n".join(row.replace("lost", f"lost {i}") for i in range(2000)))
    (small_disk / "mine.txt").write_text("mine")
    done = bench.commands(place, ["check", "r.yaml", "--clean", str(small_disk)])
    assert "the disk is full" in says_one_thing(done, FOLDER)
    assert [p.name for p in small_disk.iterdir()] == ["mine.txt"]
    assert not (small_disk / "new").exists()
    says_one_thing(bench.commands(place, ["check", "r.yaml", "--clean", str(small_disk / "new")]), FOLDER)
    assert [p.name for p in small_disk.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_disk_that_fills_during_a_run_and_is_emptied(bench: Bench, place: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    assert "the disk is full" in says_one_thing(bench.commands(place, ["run", "r.yaml", "--out", str(out)]), FOLDER)
    shutil.copytree(out, place / "moved")
    assert bench.commands(place, ["resume", "moved"]).code == 0
    assert bits(place / "moved").keys() == bits(place / "whole").keys()


@pytest.mark.parametrize(
    "where",
    [
        "tunewright.measure.rows:write_rows",
        "tunewright.runs.artefacts:save",
        "tunewright.runs.intact:hashes_of",
        "tunewright.report.page:render",
        "tunewright.runs.begun:note",
    ],
)
def test_a_disk_that_is_full_at_the_end_of_a_run(bench: Bench, place: Path, where: str) -> None:
    done = bench.commands(place, RUN, at(where, 1, "full"))
    assert "the disk is full" in says_one_thing(done, FOLDER)
    assert "began" not in where or not (place / "o").exists()


# -- A terminal that is lost -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lost_terminal_leaves_a_checkpoint(bench: Bench, place: Path) -> None:
    done = bench.commands(place, RUN, at(STEP, 5, "hup"))
    assert done.code == errors.INTERRUPTED and "with a checkpoint" in done.stderr, done.stderr
    assert (place / "o" / "checkpoint-5").is_dir()
    assert bench.commands(place, ["resume", "o"]).code == 0
    assert (place / "o/adapter/adapter_model.safetensors").read_bytes() == (
        place / "whole/adapter/adapter_model.safetensors"
    ).read_bytes()


def test_a_run_that_was_told_not_to_mind_goes_on(bench: Bench, place: Path) -> None:
    ignored = at("tunewright.machine.terminal:ending_signals", 1, "no hup")
    done = bench.commands(place, RUN, ignored, at(STEP, 5, "hup"))
    assert done.code == 0, done.stderr


@pytest.mark.slow
def test_a_real_terminal_that_goes_away(bench: Bench, place: Path) -> None:
    """The bar is on the terminal, the terminal goes: a checkpoint is written all the same."""
    import fcntl
    import termios

    master, slave = os.openpty()
    env = {**os.environ, "PYTHONPATH": str(HERE), "TUNEWRIGHT_CACHE": str(place / "cache"), "TERM": "xterm"}
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from tunewright.commands.cli import main; main()"
    )
    long = {**RECIPES["lora with dropout"], "budget": {"steps": 1_000}}
    (place / "long.yaml").write_text(yaml.safe_dump(long))
    child = subprocess.Popen(
        [sys.executable, "-c", code, "run", "long.yaml", "--out", "o"],
        cwd=place,
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    shown, until = b"", time.monotonic() + 600
    while b"training" not in shown or not list((place / "o").glob("checkpoint-*")):
        assert time.monotonic() < until, shown[-300:]
        if select.select([master], [], [], 0.1)[0]:
            shown = (shown + os.read(master, 4096))[-100_000:]
    os.close(master)
    assert child.wait(timeout=600) == errors.INTERRUPTED
    steps = [int(p.name.partition("-")[2]) for p in (place / "o").glob("checkpoint-*")]
    of_its_own = range(3, max(steps) + 1, 3)[-2:]  # the latest two that save_steps asks for
    assert max(steps) % 3 or sorted(steps) == [*of_its_own], "one more, unless it fell on one of those"


# -- A folder that goes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "plan", "check", "methods", "schema", "export"])
def test_a_working_directory_that_is_gone(bench: Bench, place: Path, verb: str) -> None:
    arguments = [
        verb,
        *([str(place / "r.yaml")] if verb in ("run", "plan", "check") else ["whole"] * (verb == "export")),
    ]
    where = place / "gone"
    where.mkdir()
    outside = {"at": "tunewright.commands.cli:main", "call": 1, "do": "no folder"}
    server = bench.commands
    process = server._ask(
        {
            "cwd": str(where),
            "stdout": str(place / ".stdout"),
            "stderr": str(place / ".stderr"),
            "env": {"TUNEWRIGHT_CACHE": str(place / "cache")},
            "arguments": arguments,
            "faults": [outside],
        }
    )
    said = says_one_thing(server.wait(place, process), FOLDER)
    assert "working directory is not there" in said


@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_run_whose_folder_goes_while_it_trains(bench: Bench, place: Path, step: int) -> None:
    done = bench.commands.wait(
        place,
        bench.commands._ask(
            {
                "cwd": str(place / "killed"),
                "stdout": str(place / ".stdout"),
                "stderr": str(place / ".stderr"),
                "env": {"TUNEWRIGHT_CACHE": str(place / "cache")},
                "arguments": ["run", str(place / "r.yaml"), "--out", "o"],
                "faults": [at(STEP, step, "no folder")],
            }
        ),
    )
    says_one_thing(done, FOLDER)


# -- Interruptions -----------------------------------------------------------------------------------------------------

INTERRUPTED = [
    (("plan", "r.yaml"), "tunewright.planning.plan:look", "begins anew"),
    (("check", "r.yaml"), "tunewright.planning.check:check", "begins anew"),
    (("export", "whole"), "tunewright.finished.export:open_run", "begins anew"),
    (("merge", "base", "base", "--method", "linear", "--out", "m"), "tunewright.weights.command:run", "goes on"),
    (RUN, "tunewright.runs.fresh:load", "tunewright resume o"),
    (RUN, "tunewright.runs.meter:Meter.prepare_base", "tunewright resume o"),
    (RESUME, "tunewright.runs.fresh:load", "tunewright resume killed"),
]


@pytest.mark.parametrize("how", ["int", "term", "hup"])
@pytest.mark.parametrize(("arguments", "where", "says"), INTERRUPTED, ids=lambda x: x if isinstance(x, str) else x[0])
def test_an_interruption_says_what_goes_on(
    bench: Bench, place: Path, arguments: tuple[str, ...], where: str, says: str, how: str
) -> None:
    said = says_one_thing(bench.commands(place, arguments, at(where, 1, how)), errors.INTERRUPTED)
    assert says in said and ("resume" in said) == ("resume" in says), said
    if "tunewright resume" in says:
        assert bench.commands(place, ["resume", says.split()[-1]]).code == 0
