"""`tunewright runs`: what folders hold, and what is removed of them and what never."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.resuming import PLAIN
from tests.small import write_inputs
from tests.test_cli import invoke
from tunewright.errors import FolderError
from tunewright.finished import folders, pruning, runs_page
from tunewright.finished.finished import open_run
from tunewright.finished.run import Run
from tunewright.machine import host
from tunewright.runs.run import run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs of one recipe at three rates, and one of other rows."""
    place = tmp_path_factory.mktemp("many")
    write_inputs(place)
    for name, rate, rows in (
        ("dull", 1e-5, "test"),
        ("keen", 2e-2, "test"),
        ("mid", 1e-3, "test"),
        ("other", 1e-3, "train"),
    ):
        body = {
            **PLAIN,
            "data": {**PLAIN["data"], "eval": f"{rows}.jsonl"},
            "methods": [{"lora": {"rank": 2}}],
            "budget": {"steps": 6},
            "train": {**PLAIN["train"], "learning_rate": rate, "save_steps": 2},
            "measurement": {**PLAIN["measurement"], "metric": "loss"},
        }
        (place / f"{name}.yaml").write_text(yaml.safe_dump(body))
        run(place / f"{name}.yaml", place / "runs" / name)
    return place / "runs"


@pytest.fixture
def runs(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def all_of(place):
    return [folders.held(folder) for folder in folders.found([place])]


def test_a_folder_says_what_its_report_says(runs):
    for one in all_of(runs):
        report = Run(one.folder).report
        assert report.target is not None and one.target is not None and report.drift is not None
        assert one.target[:2] == (report.target.before.value, report.target.after.value)
        assert one.gain == pytest.approx(one.target[0] - one.target[1])  # a loss: less is better
        assert one.drift == report.drift.value.value and one.methods == ("lora",) and one.state == "finished"
        kept = report.kept[0]
        assert one.kept == pytest.approx(kept.after.value - kept.before.value)
        assert one.bytes == sum(p.stat().st_size for p in one.folder.rglob("*") if p.is_file())


def test_only_runs_of_the_same_rows_are_compared(runs):
    groups = {one.folder.name: one.same for one in all_of(runs)}
    assert groups["dull"] == groups["keen"] == groups["mid"] != groups["other"]


def test_pruning_keeps_the_best_of_each_kind_and_every_figure(runs):
    told = json.loads(invoke("runs", "prune", str(runs), "--json").stdout)
    assert not told["removed"] and told["freed"] == 0
    assert (runs / "dull" / "stages").is_dir()
    told = json.loads(invoke("runs", "prune", str(runs), "--yes", "--json").stdout)
    best = max((o for o in all_of(runs) if o.folder.name != "other"), key=lambda o: o.gain or 0).folder.name
    for name in ("dull", "keen", "mid", "other"):
        kept = name in (best, "other")
        assert (runs / name / "stages").exists() == kept == (runs / name / "adapter").exists()
        assert not list((runs / name).glob("checkpoint-*"))
        for file in ("report.json", "report.html", "rows.jsonl", "metrics.jsonl", "recipe.yaml"):
            assert (runs / name / file).is_file()
        assert Run(runs / name).report.target is not None
    assert told["freed"] > 0
    lost = next(name for name in ("dull", "keen", "mid") if name != best)
    assert folders.held(runs / lost).state == "pruned"
    with pytest.raises(FolderError, match="weights of this run were removed"):
        open_run(runs / lost)
    assert "nothing to remove" in invoke("runs", "prune", str(runs)).stdout


def test_more_of_the_best_may_stay(runs):
    invoke("runs", "prune", str(runs), "--keep", "2", "--yes")
    assert sum((folder / "stages").is_dir() for folder in runs.iterdir()) == 3
    assert invoke("runs", "prune", str(runs), "--keep", "none").exit_code == 2


def test_what_is_needed_stays(runs):
    (runs / "dull" / "report.json").unlink()  # interrupted: its checkpoints are what it goes on from
    recipe = yaml.safe_load((runs / "other" / "recipe.yaml").read_text())
    recipe["stages"][0]["start"] = str(runs / "mid")
    (runs / "other" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    why = {g.run.folder.name: (g.names, g.why) for g in pruning.planned(all_of(runs), 1)}
    assert why["dull"] == ((), "it is interrupted")
    assert not set(why["mid"][0]) & pruning.WEIGHTS


def test_a_live_run_is_said_and_never_touched(runs):
    (runs / "dull" / "report.json").unlink()
    lock = host.Lock(runs / "dull" / ".lock")
    try:
        asks = os.fork()
        if asks == 0:
            try:
                os._exit(0 if folders.held(runs / "dull").state == "running" else 1)
            finally:
                os._exit(2)
        assert os.waitpid(asks, 0)[1] == 0  # of this one: other tests may have left processes behind
    finally:
        lock.release()
    assert folders.held(runs / "dull").state == "interrupted"


def test_damaged_and_missing_folders_are_one_line(runs):
    (runs / "dull" / "report.json").write_text("{")
    (runs / "mid" / "report.json").write_text('{"run": 5}')
    states = {one.folder.name: one for one in all_of(runs)}
    assert states["dull"].state == states["mid"].state == "unreadable"
    said = invoke("runs", str(runs)).stdout
    assert "cannot be read" in said and "is not one of a run" in said
    with pytest.raises(FolderError, match="no such folder"):
        list(folders.found([runs / "none"]))
    (runs / "empty").mkdir()
    assert "there is no run here" in invoke("runs", "list", str(runs / "empty")).stdout


@pytest.mark.parametrize("by", ["target", "kept", "drift", "seconds", "bytes", "name", "age"])
def test_the_order_is_what_is_asked(runs, by):
    shown = [r["folder"] for r in json.loads(invoke("runs", str(runs), "--sort", by, "--json").stdout)]
    held = {str(o.folder): o for o in all_of(runs)}
    keys = {
        "target": lambda o: -o.gain,
        "kept": lambda o: o.kept,
        "drift": lambda o: o.drift,
        "seconds": lambda o: o.seconds,
        "bytes": lambda o: -o.bytes,
        "name": lambda o: str(o.folder),
        "age": lambda o: [-ord(c) for c in o.started],
    }
    values = [keys[by](held[folder]) for folder in shown]
    assert values == sorted(values) and len(shown) == 4
    assert invoke("runs", str(runs), "--sort", "colour").exit_code == 2


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_fits_its_terminal(runs, width):
    text = runs_page.listed(all_of(runs), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("finished") == 4 and (width < 200 or "interval" in text and str(runs / "dull") in text)


def test_listing_loads_no_model_library(runs):
    told = "import sys, pathlib; from tunewright.commands.folders import runs_list as f; f([pathlib.Path(sys.argv[1])])"
    said = subprocess.run(
        [sys.executable, "-c", f"{told}; print('torch' in sys.modules)", str(runs)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[-1] == "False"


def test_a_folders_name_commands_no_terminal(runs):
    (runs / "dull").rename(runs / "\x1b[31mred\u202eback")
    said = invoke("runs", str(runs)).stdout
    assert "\x1b" not in said and "\u202e" not in said and "red" in said


def test_a_run_that_is_not_at_its_end_stands_where_it_began(runs):
    progress = json.loads((runs / "dull" / "progress.json").read_text())
    (runs / "dull" / "progress.json").write_text(json.dumps({**progress, "started": "9999-01-01T00:00:00+00:00"}))
    (runs / "dull" / "report.json").unlink()
    first = folders.ordered(all_of(runs), "age")[0]
    assert first.folder.name == "dull" and first.started.startswith("9999")
    (runs / "dull" / "progress.json").write_text("[]")
    assert folders.held(runs / "dull").started == ""
