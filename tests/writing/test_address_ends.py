"""Commands that are ended while an address is waited for: at once, and with every answer that came."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.answering import Said, serving
from tests.resuming import commands
from tests.running import Commands
from tests.writing.test_address import _teacher, inputs
from tunewright import errors

__all__ = ["commands"]

SOON = 45.0
"""Seconds in which a command ends that is asked to: far more than it takes, far less than what it waits for."""


def asked_of(body: dict[str, Any]) -> str:
    return json.dumps(body["messages"])


def lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines() if file.exists() else []


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends, "it never came so far"
        time.sleep(0.02)


def later(over: threading.Event) -> Said:
    return 429, {"Retry-After": "100000"}, b""


def never(over: threading.Event) -> Said:
    over.wait(600)
    raise ConnectionError


def trickling(over: threading.Event) -> Said:
    def drops() -> Iterator[bytes]:
        while not over.wait(0.05):
            yield b" "

    return 200, {}, drops()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with serving(_teacher) as server:
        inputs(folder, server.url)
        assert commands(folder, ["run", "r.yaml", "--out", "whole"]).code == 0
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("waits_for", "sent"),
    [
        (later, signal.SIGTERM),
        (never, signal.SIGINT),
        (trickling, signal.SIGTERM),
        (never, signal.SIGKILL),
    ],
)
def test_a_command_that_waits_for_an_address_ends_at_once_and_keeps_what_came(
    tmp_path: Path, commands: Commands, whole: Path, waits_for: Callable[[threading.Event], Said], sent: signal.Signals
) -> None:
    over, disturbed = threading.Event(), [True]
    answered: list[str] = []
    one = threading.Lock()  # several are asked at a time

    def answer(path: str, body: dict[str, Any], headers: dict[str, str]) -> Said:
        with one:
            waits = disturbed[0] and len(answered) == 3  # two lists of entities, and the first of the texts
            if not waits:
                answered.append(asked_of(body))
        if waits:
            return waits_for(over)
        return _teacher(path, body, headers)

    out = tmp_path / "out"
    with serving(answer) as server:
        inputs(tmp_path, server.url)
        process = commands.start(tmp_path, ["run", "r.yaml", "--out", "out"])
        until(lambda: len(lines(out / "made/main.replies.jsonl")) == 3 and len(server.requests) >= 6)
        began = time.monotonic()
        os.kill(process, sent)
        done = commands.wait(tmp_path, process)
        took = time.monotonic() - began
        over.set()
        disturbed[0] = False
        before = len(server.requests)
        assert done.code == (-sent if sent == signal.SIGKILL else errors.Interrupted.code), done.stderr
        assert took < SOON and "Traceback" not in done.stderr, (took, done.stderr)
        assert sent == signal.SIGKILL or "tunewright resume" in done.stderr
        assert commands(tmp_path, ["resume", "out"]).code == 0
        again = [asked_of(body) for _, body, _ in server.requests[before:]]
    assert len(again) == 3 and not set(again) & set(answered[:3]), "an answer that came was asked for again"
    rows = "made/main.rows.jsonl"
    assert (out / rows).read_bytes() == (whole / rows).read_bytes()
