"""Property tests have no deadline. `--misalign SEED`: the suite with memory that lies askew (tests/misalign.py)."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

from tests.misalign import VARIABLE, Askew

ASKEW = pytest.StashKey[Askew]()

# nothing is timed here: a machine that is busy with other work draws and runs examples slowly
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--misalign", metavar="SEED", help="run every test with memory that lies askew, drawn by SEED")


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--misalign")) is not None:
        os.environ[VARIABLE] = seed
        config.stash[ASKEW] = Askew(seed).begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if ASKEW in config.stash:
        config.stash[ASKEW].end()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected never becomes garbage: without this, a third of the suite's time is spent on
    looking through it again and again.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if ASKEW in item.config.stash:
        item.config.stash[ASKEW].draw(item.nodeid)
