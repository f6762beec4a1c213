"""Runs `tunewright` commands as processes that can be killed at a chosen moment, each in a fraction of a second.

A server process imports everything once and forks a child for each command. A child calls the console entry, after
placing faults: `{"at": "module:attribute", "call": n, "do": "kill"}` does it just before the n-th call of that
function. What may be done: kill (SIGKILL), term (SIGTERM), hup (SIGHUP), int (SIGINT), no hup (SIGHUP is ignored,
as under `nohup`), no folder (the working directory goes), memory (MemoryError), full (the disk is full), denied, limit
and tight (no file may grow beyond 6,000 or 1,000 bytes), sleep.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.misalign import begin_in_child

HERE = Path(__file__).resolve().parent.parent


def _raise(e: BaseException) -> None:
    raise e


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _limit(size: int) -> None:
    """Writing a file beyond `size` bytes fails from now on."""
    import resource  # not everywhere

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Within, no file may grow beyond `size` bytes."""
    import resource

    handler, limits = signal.getsignal(signal.SIGXFSZ), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


FAULTS: dict[str, Callable[[], object]] = {
    "kill": _die,
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "hup": lambda: os.kill(os.getpid(), signal.SIGHUP),
    "int": lambda: os.kill(os.getpid(), signal.SIGINT),
    "no hup": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    "no folder": lambda: shutil.rmtree(Path.cwd()),
    "memory": lambda: _raise(MemoryError("injected")),
    "full": lambda: _raise(OSError(errno.ENOSPC, "No space left on device")),
    "denied": lambda: _raise(OSError(errno.EACCES, "Permission denied")),
    "limit": lambda: _limit(6_000),
    "tight": lambda: _limit(1_000),
    "sleep": lambda: time.sleep(300),
}


def place(fault: dict[str, Any]) -> None:
    """Wrap the function that a fault names."""
    module, _, path = fault["at"].partition(":")
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == fault.get("call", 1):
            FAULTS[fault["do"]]()
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def _child(order: dict[str, Any]) -> int:
    os.setsid()
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    begin_in_child()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # however the tests themselves were started
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell lets it be ignored
    signal.alarm(600)  # what waits without end, for a pipe say, is ended
    for fault in order["faults"]:
        place(fault)
    from tunewright.commands import cli

    sys.argv = ["tunewright", *order["arguments"]]
    try:
        cli.main()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1 if e.code else 0
    return 0


def serve() -> None:
    """Read one JSON order a line; answer with one JSON line."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    from tunewright.report import page, terminal  # noqa: F401
    from tunewright.runs import after, artefacts, assemble, meter, probes, results, run, stages  # noqa: F401
    from tunewright.training import carry  # noqa: F401

    gc.collect()
    gc.freeze()  # so that a child's collector neither reads nor copies what all children share
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            status = os.waitpid(order["wait"], 0)[1]
            print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = _child(order)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps(child), flush=True)


@dataclass
class Done:
    """How a command ended: its exit code (-9: killed) and what it said."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """The server, and what it needs to start commands in a folder."""

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            import pytest  # here, not above: the server needs none of it

            pytest.skip("commands that are killed on the way are forked, which this system cannot")
        path = os.pathsep.join([*filter(None, sys.path), str(HERE)])  # what this process imports
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.running"],
            cwd=HERE,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        cwd: Path,
        arguments: Sequence[str],
        *faults: dict[str, Any],
        cache: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> int:
        """Begin a command; return its process id."""
        where = {"cwd": str(cwd), "stdout": str(cwd / ".stdout"), "stderr": str(cwd / ".stderr")}
        env = {"TUNEWRIGHT_CACHE": str(cache or cwd / "cache"), **(env or {})}
        found: int = self._ask({**where, "env": env, "arguments": list(arguments), "faults": list(faults)})
        return found

    def wait(self, cwd: Path, process: int) -> Done:
        code = self._ask({"wait": process})
        return Done(code, (cwd / ".stdout").read_text(), (cwd / ".stderr").read_text())

    def __call__(self, cwd: Path, arguments: Sequence[str], *faults: dict[str, Any], cache: Path | None = None) -> Done:
        """Do a command to its end."""
        return self.wait(cwd, self.start(cwd, arguments, *faults, cache=cache))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=120)


if __name__ == "__main__":
    serve()
