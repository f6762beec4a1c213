"""Takes from a process what Linux has and macOS or Windows lack, before the package is imported.

What libraries do stays as it is: they have their own ways on each system. So they are imported first, and psutil, which
stands for what it knows on the other systems, may read /proc. What cannot be shown so: how Windows treats open files
that are renamed or deleted.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

LACKS: dict[str, list[str]] = {
    "darwin": ["sched_getaffinity", "posix_fallocate", "posix_fadvise", "fdatasync"],
    "win32": [
        *("sched_getaffinity", "posix_fallocate", "posix_fadvise", "fdatasync", "sysconf", "statvfs", "fork", "setsid"),
        *("getloadavg", "killpg", "pread", "pwrite", "preadv", "pwritev", "getpgid", "sync"),
    ],
}
HIDDEN = ("/proc", "/sys/fs/cgroup")


LIBRARIES = ("datasets", "filelock", "numba", "sklearn", "torch", "transformers.models.llama.modeling_llama")


def take_away(system: str, libraries: Sequence[str] = LIBRARIES) -> None:
    """Make this process as one of `system`: "darwin" or "win32". `libraries`: what it will need."""
    import psutil  # noqa: F401

    for name in libraries:
        importlib.import_module(name)
    assert not any(n.split(".")[0] == "tunewright" for n in sys.modules), "too late: the package is imported already"
    _hide_files()
    _as_windows() if system == "win32" else _as_macos()
    for name in LACKS[system]:
        delattr(os, name)
    import tunewright.files.cache as cache
    import tunewright.machine.host as host

    for module in (cache, host):  # the two that ask for the system's name
        module.sys = _System(system)  # type: ignore[assignment]


class _System(ModuleType):
    def __init__(self, platform: str):
        super().__init__("sys")
        self.platform = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def _asked_by(*libraries: str) -> bool:
    """Whether the function that called a replaced one is a library's."""
    return str(sys._getframe(2).f_globals.get("__name__")).split(".")[0] in libraries


def _hide_files() -> None:
    def hiding(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            named = isinstance(path, str | os.PathLike) and os.fspath(path)
            if isinstance(named, str) and named.startswith(HIDDEN) and not _asked_by("psutil"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), named)
            return real(path, *args, **kwargs)

        return call

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "readlink")):
        setattr(module, name, hiding(getattr(module, name)))


def _as_macos() -> None:
    import resource

    def getrusage(who: int) -> SimpleNamespace:
        return SimpleNamespace(ru_maxrss=used(who).ru_maxrss * 1024)  # bytes there, KiB here

    used = resource.getrusage
    resource.getrusage = getrusage  # type: ignore[assignment]


def _as_windows() -> None:
    import fcntl
    import shutil

    statvfs = os.statvfs  # what shutil asks here; there it asks the system in another way

    def disk_usage(path: Any) -> SimpleNamespace:
        return SimpleNamespace(free=statvfs(path).f_bavail * statvfs(path).f_frsize)

    shutil.disk_usage = disk_usage  # type: ignore[assignment]
    opened, fsync, killed, popen = os.open, os.fsync, os.kill, subprocess.Popen.__init__

    def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if not _asked_by("shutil", "os") and not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *args, **kwargs)

    def fsync_(descriptor: Any) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)

    def popen_(self: Any, *args: Any, **kwargs: Any) -> None:
        assert not kwargs.get("pass_fds") and not kwargs.get("preexec_fn"), "not supported on Windows"
        popen(self, *args, **kwargs)

    def kill(process: int, number: int) -> None:
        if _asked_by("psutil", "subprocess"):
            return killed(process, number)
        raise AssertionError("os.kill ends a process on Windows, whatever the signal's number")

    def locking(descriptor: int, mode: int, size: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    os.open, os.fsync, os.kill = open_, fsync_, kill  # type: ignore[assignment]
    subprocess.Popen.__init__ = popen_  # type: ignore[method-assign]
    del signal.SIGKILL
    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
    sys.modules["msvcrt"] = msvcrt
    sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["readline"] = None  # type: ignore[assignment]
