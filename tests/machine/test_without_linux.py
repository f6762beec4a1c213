"""The package where what Linux alone has is missing: it starts, runs, resumes, compares and deletes no live work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.machine import host

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "worker"),
    [("win32", "fake"), ("win32", "real"), ("darwin", "real")],
)
def test_a_users_session(system: str, worker: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.machine.session", system, worker, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["doctor"]["machine"][0] == out["doctor"]["cache folder"][0] == "ok"
    assert "GiB free" in out["doctor"]["cache folder"][1]
    assert out["cores"] == [host.cores(), host.cores()]  # without a control group to ask, there is no quota
    total, available = out["memory"]
    assert total >= (host.total_memory() or 0) and 0 < available <= total
    training = out["training"]
    assert training["stopped"] and training["resumed"] == 1 and training["same bits"]
    assert (
        training["hardware"]["cores"] == host.cores()
        and training["hardware"]["name"]
        and 50e6 < training["peak"] < total
    )
    assert out["trials"] == {"statuses": ["finished", "finished"], "errors": [], "work left": []}
    assert out["sweeping"] == {"live work stays": True, "dead work goes": True}
    assert out["locking"] == {"held": "a live run (process PID) is using this folder"}
    assert out["merging"]["tensors"] > 0 and out["merging"]["same"]
