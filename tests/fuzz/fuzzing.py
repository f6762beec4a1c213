"""Runs damaged inputs through the command line, in this process, and tells what is no clear message.

`python -m tests.fuzz.fuzzing --inputs 500 --first 0 [--surface NAME]` prints what it found, one line for each place in
the code, with the numbers of the inputs that lead there; `--input N --surface NAME` runs one again and keeps its files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from tests.fuzz.surfaces import SURFACES, prepare

SECONDS, PATIENCE = 60, 600
"""Longest that one input may take, in seconds of the processor and of the clock (the machine may be busy otherwise):
what is small and broken is refused at once, or runs its one step.
"""
AGAIN = 1.0
"""Seconds until an input over its limit is ended once more: the first end may have come inside a collected object's own
end or another place whose errors Python prints and forgets.
"""


@dataclass(frozen=True)
class Outcome:
    """`fault`: None where the command did its work or refused in one clear message; else what is wrong with it."""

    code: int
    said: str
    fault: str | None


class TooLong(BaseException):
    """An input that hangs. No Exception: nothing on the way may take it for one of its own."""


def outcome(arguments: Sequence[str]) -> Outcome:
    """What a command line did with its inputs."""
    from tunewright.commands import cli

    streams, kept = (sys.stdin, sys.stdout, sys.stderr), os.dup(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _limited():
                done = CliRunner().invoke(cli.app, list(arguments), input="")
        except TooLong:  # it may have come before the command began, or while the runner put the streams back
            return Outcome(-1, "", f"took over {SECONDS} s")
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
            os.dup2(kept, 1)  # a command that the system refused something lets go of it, as its last words
            os.close(kept)
    error = done.exception
    if isinstance(error, TooLong):
        return Outcome(-1, "", f"took over {SECONDS} s")
    if error is not None and not isinstance(error, SystemExit):
        own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}tunewright{os.sep}" in f.filename]
        place = f"{own[-1].filename.split(f'{os.sep}tunewright{os.sep}')[-1]}:{own[-1].lineno}" if own else "?"
        return Outcome(done.exit_code, done.stderr, f"{type(error).__name__} at {place}")
    if done.exit_code and "-> " not in done.stderr and "-> " not in done.stdout:
        last = next((x for x in reversed(done.stderr.splitlines()) if x.strip()), "nothing was said")
        what = re.sub(r"\d+", "N", re.sub(r"\S*/", "", last))
        return Outcome(done.exit_code, done.stderr, f"no remedy: {what[:90]}")
    return Outcome(done.exit_code, done.stderr, None)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    over = False

    def ended(*_: object) -> None:
        if not over:
            raise TooLong

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    limits = ((signal.SIGALRM, signal.ITIMER_REAL, PATIENCE), (signal.SIGPROF, signal.ITIMER_PROF, SECONDS))
    before = [signal.signal(told, ended) for told, _, _ in limits]
    try:
        for _, timer, seconds in limits:
            signal.setitimer(timer, seconds, AGAIN)
        yield
    finally:
        over = True  # a machine that stands still for a second ends it once more right here
        for (told, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(told, handler)


def surface_of(number: int) -> str:
    rng = random.Random(f"surface/{number}")
    return rng.choices(list(SURFACES), [share for _, share in SURFACES.values()])[0]


def input_of(number: int, surface: str, ready: Path, into: Path) -> list[str]:
    """Write input `number` of a surface into a copy of the prepared folder; the command line that reads it."""
    shutil.copytree(ready, into, symlinks=True)
    return SURFACES[surface][0](into, random.Random(f"{surface}/{number}"))


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """The folder that inputs are copies of, with a cache of its own and the working directory inside."""
    with tempfile.TemporaryDirectory(prefix="tunewright-fuzz-") as at:
        folder, here = Path(at), Path.cwd()
        old = os.environ.get("TUNEWRIGHT_CACHE")
        os.environ["TUNEWRIGHT_CACHE"] = str(folder / "cache")
        (folder / "ready").mkdir()
        try:
            os.chdir(folder / "ready")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                prepare(folder / "ready")
            yield folder
        finally:
            os.chdir(here)
            os.environ.pop("TUNEWRIGHT_CACHE") if old is None else os.environ.update(TUNEWRIGHT_CACHE=old)


def faults(numbers: Sequence[int], surface: str | None = None, *, show: bool = False) -> dict[str, list[str]]:
    """Fault -> the inputs that show it, each as surface/number."""
    found: dict[str, list[str]] = defaultdict(list)
    with prepared() as folder:
        for number in numbers:
            name = surface or surface_of(number)
            into = folder / f"{name}-{number}"
            arguments = input_of(number, name, folder / "ready", into)
            os.chdir(into)
            result = outcome(arguments)
            os.chdir(folder)
            if result.fault is not None:
                found[result.fault].append(f"{name}/{number}")
                if show:
                    print(f"{name}/{number}: {result.fault}", flush=True)
            shutil.rmtree(into, ignore_errors=True)
    return dict(found)


def _again(surface: str, number: int) -> None:
    with prepared() as folder:
        kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{surface}-{number}-")) / "input"
        arguments = input_of(number, surface, folder / "ready", kept)
        os.chdir(kept)
        print(f"cd {kept} && tunewright", *arguments)
        from tunewright.commands import cli

        done = CliRunner().invoke(cli.app, arguments, input="")
        print(done.output)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            traceback.print_exception(done.exception)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--surface", choices=list(SURFACES))
    parser.add_argument("--input", type=int, help="run this one again, loudly")
    options = parser.parse_args()
    if options.input is not None:
        _again(options.surface or surface_of(options.input), options.input)
        return 0
    found = faults(range(options.first, options.first + options.inputs), options.surface, show=True)
    for fault, inputs in sorted(found.items(), key=lambda f: -len(f[1])):
        print(f"{len(inputs):5}  {fault}  ({', '.join(inputs[:4])})")
    print(f"{sum(map(len, found.values()))} of {options.inputs} inputs, {len(found)} places")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
