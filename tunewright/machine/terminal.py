"""The terminal that a program was started from, and what is left of it when that goes away."""

from __future__ import annotations

import os
import signal
import stat


class AskedToEnd(KeyboardInterrupt):
    """A signal asks the program to end: whoever takes Ctrl-C for the end of one answer alone lets this one through."""


def ending_signals() -> list[signal.Signals]:
    """Signals by which a program is asked to end: SIGTERM, and SIGHUP of a terminal that is lost (an ssh connection).

    Not one that whoever started the program wants it to ignore, as `nohup` does.
    """
    named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))  # Windows has no SIGHUP
    return [s for s in named if s is not None and signal.getsignal(s) != signal.SIG_IGN]


def is_hang_up(number: int) -> bool:
    """Whether a signal says that the terminal is gone."""
    return number == getattr(signal, "SIGHUP", None)


def leave(*given: int) -> None:
    """Let what is said from now on go nowhere: writing to a terminal that hung up is an error each time.

    `given`: descriptors; without any the standard ones, of which files and pipes stay as they are.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in given or (0, 1, 2):
            try:
                if given or stat.S_ISCHR(os.fstat(descriptor).st_mode):
                    os.dup2(nowhere, descriptor)
            except OSError:
                continue
    finally:
        os.close(nowhere)
