"""How torch's threads wait for one another on a CPU that others use, too."""

from __future__ import annotations

import os

SPINS = "10000"
"""Rounds that a thread waits awake, some tens of microseconds: as fast as GNU OpenMP's own default on an idle machine.
That default is milliseconds: as soon as the machine has other work, threads burn most of the processor waiting for one
that cannot run, and a step takes five times as long."""


def wait_asleep() -> None:
    """Let waiting threads sleep soon, unless the user has said how they wait. GNU OpenMP reads it when torch is loaded:
    later it has no effect.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
