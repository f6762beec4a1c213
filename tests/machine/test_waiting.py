"""How torch's threads wait: asleep soon, unless the user says otherwise, and set before torch is there to read it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOLD = "import os, sys, tunewright; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, "False 10000"),
        ({"GOMP_SPINCOUNT": "7"}, "False 7"),
        ({"OMP_WAIT_POLICY": "active"}, "False None"),
    ],
)
def test_threads_sleep_soon_unless_the_user_says_how_they_wait(given, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    # -S leaves out whatever an environment's site-packages set on their own
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {TOLD}"],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == expected
