"""`tunewright run --nproc N`: N processes of one run on this machine, as torchrun begins them, and one message where
one of them ends.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tunewright.errors import INTERRUPTED, PartedError
from tunewright.runs.several import ASIDE

PATIENCE = 20.0
"""Seconds that the others get to end by themselves once one has."""


def launch(args: Sequence[str], count: int) -> int:
    """Run `tunewright ARGS` in `count` processes and give the exit code of the first, which alone prints. What ended
    another one, and the run with it, is printed on standard error.
    """
    with ExitStack() as stack:
        aside = stack.enter_context(tempfile.TemporaryDirectory(prefix="tunewright-", ignore_cleanup_errors=True))
        said: list[Any] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        port = stack.enter_context(held_port())
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_send, processes, signal.SIGKILL)  # an interruption may come while they are begun
        for rank in range(count):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "tunewright", *args],
                    env=os.environ | _names(rank, count, port) | {ASIDE: aside},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if rank else None,
                    stderr=said[rank] if rank else None,
                    start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
                )
            )
        codes = _wait(processes)
        for rank, file in enumerate(said):
            if (codes[0] == PartedError.code and rank or codes[rank] < 0) and (why := _why(codes[rank], file)):
                print(f"process {rank + 1} of {count}: {why}", file=sys.stderr, flush=True)
        if codes[0] < 0:  # what was killed cannot speak
            print("  -> `tunewright resume` goes on from the last checkpoint", file=sys.stderr, flush=True)
        return codes[0] if codes[0] >= 0 else PartedError.code


def _names(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of itself."""
    named = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in named.items()}}


@contextmanager
def held_port() -> Iterator[int]:
    """A free port of this machine that the system gives to nobody else meanwhile: the first process takes it only once
    its libraries are loaded. Elsewhere than on Linux it is one that was free a moment ago.
    """
    with socket.socket() as asked:
        if sys.platform == "linux":  # bound, not listened on, and shared with one that says the same
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asked.bind(("127.0.0.1", 0))
        port = int(asked.getsockname()[1])
        if sys.platform != "linux":
            asked.close()
        yield port


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The processes' exit codes; once one has failed, the others are ended where they do not end themselves. An
    interruption is passed on: they write a checkpoint, however long that takes, and the first says so; a second one
    ends them at once.
    """
    until, asked = math.inf, False
    while True:
        try:
            while any(p.poll() is None for p in processes):
                # one that was interrupted took nothing from the others: the first may be writing for minutes
                if any(p.poll() not in (None, 0, INTERRUPTED) for p in processes):
                    until = min(until, time.monotonic() + PATIENCE)
                if time.monotonic() > until:
                    _send(processes, signal.SIGKILL)
                time.sleep(0.05)
            return [p.wait() for p in processes]
        except KeyboardInterrupt:
            _send(processes, signal.SIGKILL if asked else signal.SIGTERM)
            asked = True


def _send(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for p in processes:
        if p.poll() is None:
            p.send_signal(number)


def _why(code: int, said: Any) -> str:
    """What ended a process, "" where it only followed another."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    said.seek(0)
    return said.read().decode(errors="replace").strip() if code not in (0, PartedError.code) else ""
