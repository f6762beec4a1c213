"""Freed memory stays with the process, and the user's own settings win."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tunewright.machine import memory

FAULTS = """
import ctypes, resource, sys
from tunewright.machine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def use():
    blocks = [c.malloc(16 << 20) for _ in range(4)]
    for b in blocks: c.memset(b, 1, 16 << 20)
    for b in blocks: c.free(b)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(monkeypatch, how):
    for name in memory.SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_freed_blocks_are_not_faulted_in_again(monkeypatch):
    assert faults(monkeypatch, "keep") * 10 < faults(monkeypatch, "give back")


@pytest.mark.parametrize("name", memory.SET_BY_USER)
def test_the_users_settings_win(monkeypatch, name):
    monkeypatch.setenv(name, "65536")
    assert not memory.keep_freed_memory()
