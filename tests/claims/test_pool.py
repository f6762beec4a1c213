"""A claim through the real store, pool and tuning, by the command line; killed half-way and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import small

DECLARED = """
from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft", says="x", task="here", seeds=3, smallest=0.02, direction="lower", metric="kept at matched target",
    rates=(1e-2,), reach=0.01,
    method=Arm(name="hft", methods=["hft"]), baselines=[Arm(name="full", methods=["full"])], strengths=(0.5, 1.0),
    budget={"steps": 3},
)
"""
RUN = """
import json, sys
from pathlib import Path
from tunewright.claims import runner
from tunewright.claims.engine import Local

here = Path(sys.argv[1])
task = json.loads((here / "task.json").read_text())
say = lambda done, total, what: print(done, total, what, flush=True)
with Local(workers=1) as engine:
    runner.run_claim("hft", "nano", engine=engine, results=here / "results", claims=here / "claims", task=task, say=say)
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_is_judged(tmp_path):
    small.write_inputs(tmp_path, test=12)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "hft.py").write_text(DECLARED)
    task = {k: v for k, v in small.RECIPE.items() if k != "stages"} | {
        "model": str(tmp_path / "base"),
        "keep": [str(tmp_path / "keep.txt")],
    }
    task["data"] = {
        "train": str(tmp_path / "train.jsonl"),
        "eval": str(tmp_path / "test.jsonl"),
        "validation": 0.2,
        "max_length": 128,
    }
    task["measurement"] = {**task["measurement"], "few_shot": 0, "metric": "loss"}
    (tmp_path / "task.json").write_text(json.dumps(task))
    env = {**os.environ, "TUNEWRIGHT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout is not None
    for line in first.stdout:
        if int(line.split()[0]) >= 5:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    begun = json.loads((tmp_path / "results" / "hft.json").read_text())["nano"]
    assert begun["verdict"] is None and begun["status"] == "running"
    store = tmp_path / "cache" / "trials"
    before = {p: p.stat().st_mtime_ns for p in store.glob("*/*.json")}
    assert len(before) >= 5
    subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    after = {p: p.stat().st_mtime_ns for p in store.glob("*/*.json")}
    assert all(after[p] == t for p, t in before.items())
    done = json.loads((tmp_path / "results" / "hft.json").read_text())["nano"]
    assert (
        done["verdict"] in ("holds", "fails", "unclear", "not tested")
        and done["status"] == "judged"
        and "earlier" not in done
    )
    assert (
        [len(a["runs"]) for a in done["arms"]] == [3, 3]
        and all(len(a["tuned"]) >= 6 for a in done["arms"])
        and done["base_hash"]
    )
    assert not any(r.get("error") for a in done["arms"] for r in a["runs"])
