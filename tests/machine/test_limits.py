"""Somebody else's code is stopped when it takes too long or too much, in whatever thread it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from tunewright.machine import limits
from tunewright.machine.limits import memory_within, within


def spin() -> None:
    while True:
        try:
            time.monotonic()
        except Exception:  # noqa: S110 - the called code may take every Exception: this must not save it
            pass


def test_a_value_and_an_error_pass_through():
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        within(5, lambda: {}["x"])


def test_a_call_that_does_not_end_is_stopped_and_the_next_one_is_not():
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        within(0.2, spin)
    time.sleep(0.5)  # a late exception would arrive here
    assert within(5, lambda: "next") == "next"


def test_threads_have_limits_of_their_own():
    ends: list[str] = []

    def late() -> None:
        try:
            within(0.2, spin)
        except TimeoutError:
            ends.append("late")

    thread = threading.Thread(target=late)
    thread.start()
    assert within(300, lambda: thread.join(200) or "in time") == "in time" and ends == ["late"]


class Swallows:
    """Something whose own end takes the first exception that it meets: Python prints it and goes on."""

    def __del__(self) -> None:
        spin()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_end_that_is_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(limits, "_AGAIN", 0.3)
    ends: list[str] = []

    def call() -> None:
        made = Swallows()
        del made  # it spins in here until it is ended for the first time
        ends.append("swallowed")
        spin()

    def late() -> None:
        try:
            within(0.2, call)
        except TimeoutError:
            ends.append("late")

    thread = threading.Thread(target=late, daemon=True)
    thread.start()
    thread.join(60)
    assert ends == ["swallowed", "late"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_can_limit_though_another_thread_had_the_lock():
    with limits._watch.lock:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(60)
                os._exit(within(5, lambda: 3))
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much address space a process has")
def test_memory_beyond_the_room_is_an_error_and_the_limit_goes_afterwards():
    with memory_within(1 << 28):
        assert len(bytearray(1 << 20)) == 1 << 20
        with pytest.raises(MemoryError):
            bytearray(1 << 30)
    assert len(bytearray(1 << 30)) == 1 << 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much address space a process has")
def test_limits_of_two_threads_leave_none_behind():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with memory_within(1 << 32):
            first_in.set()
            second_in.wait(0.5)  # it never is, where one waits for the other
        first_out.set()

    def second() -> None:
        assert first_in.wait(60)
        with memory_within(1 << 33):
            second_in.set()
            assert first_out.wait(60)

    threads = [threading.Thread(target=t) for t in (first, second)]
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        assert first_out.is_set() and resource.getrlimit(resource.RLIMIT_AS) == before
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
