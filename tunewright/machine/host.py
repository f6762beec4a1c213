"""What this machine gives the process: cores, memory, which processes live, and locks on files.

Everything that differs between Linux, macOS and Windows is asked here, and each question has an answer where the
system's own way to ask is missing. Imports nothing heavy. Memory in bytes.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
_LOCKED_BYTE = 1 << 30
"""Windows keeps others from reading a byte that is locked, so the lock lies far behind the holder's number."""


def _module(name: str) -> Any | None:
    """A module of the standard library that some systems lack (fcntl, resource: not on Windows)."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def cores() -> int:
    """Processor cores that this process may be scheduled on: its affinity where the system keeps one, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    import psutil

    try:
        return len(psutil.Process().cpu_affinity()) or 1  # Windows and FreeBSD keep one, macOS does not
    except (AttributeError, psutil.Error, OSError):
        return os.cpu_count() or 1


def usable_cores() -> int:
    """`cores()`, and no more than the control group's quota of processor time pays for (rounded up)."""
    quotas = [q for folder in _group_folders("cpu") if (q := _quota(folder)) is not None]
    return max(1, min([cores(), *(math.ceil(q) for q in quotas)]))


def total_memory() -> int | None:
    """Memory that this process can have at most: the machine's, within its control group's limit. None: not known."""
    return min([m for m in (_memory("total"), *_memory_limits()) if m is not None], default=None)


def available_memory() -> int | None:
    """Memory that can be had now: what the system says is available, within what the control group leaves.

    Files that the system keeps in memory count as available: it gives them up when asked. None: not known.
    """
    left = [_left(folder, limit) for folder, limit in _limited_groups()]
    return min([m for m in (_memory("available"), *left) if m is not None], default=None)


def _memory(which: str) -> int | None:
    import psutil

    try:
        return int(getattr(psutil.virtual_memory(), which))
    except (psutil.Error, OSError, RuntimeError):  # on Linux psutil asks /proc
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _group_folders(controller: str) -> Iterator[Path]:
    """Folders of the control groups that bind this process: its own and those above, of either version."""
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, place = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        roots = [GROUPS / controller, GROUPS / names] if names else [GROUPS, GROUPS / "unified"]
        own = Path(place.lstrip("/"))
        for root in dict.fromkeys(roots):  # a container sees its own group as the root: what is not there is passed by
            yield from (root / folder for folder in (own, *own.parents) if ".." not in folder.parts)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _quota(folder: Path) -> float | None:
    """Cores' worth of processor time that one group may use."""
    try:
        share, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(share) / int(period) if share != "max" else None
    except (OSError, ValueError, ZeroDivisionError):
        pass
    share_1, period_1 = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return share_1 / period_1 if share_1 and period_1 and share_1 > 0 else None


def _limited_groups() -> Iterator[tuple[Path, int]]:
    for folder in _group_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)  # "max" is no number
            if limit is not None and limit < 1 << 60:  # version 1 writes "no limit" as nearly 2**63
                yield folder, limit


def _memory_limits() -> list[int]:
    return [limit for _, limit in _limited_groups()]


def _left(folder: Path, limit: int) -> int | None:
    used = _number(folder / "memory.current")
    used = _number(folder / "memory.usage_in_bytes") if used is None else used
    if used is None:
        return None
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return max(0, limit - used)


def peak_memory() -> int:
    """The most memory that this process has held resident since it began, or since `forget_peak` where that works."""
    resource = _module("resource")
    if resource is not None:
        peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return peak if sys.platform == "darwin" else peak * 1024
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))  # Windows keeps the peak of what it calls the working set


def forget_peak() -> None:
    """Let `recent_peak` begin anew. Linux alone can; elsewhere nothing happens."""
    try:
        (PROC / "self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


def recent_peak() -> int | None:
    """The most memory held resident since `forget_peak`; None where the system does not say."""
    try:
        lines = (PROC / "self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def load_average() -> float | None:
    """Processes waiting or running over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in (PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return (sys.platform == "darwin" and _said(["sysctl", "-n", "machdep.cpu.brand_string"])) or (
        platform.processor() or platform.machine()
    )


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def ending(code: int | None) -> str:
    """What ended a process, from its exit code as `subprocess` gives it: the signal's name, or "exit code N"."""
    try:
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-(code or 0)}"


def umask() -> int:
    """Bits of permissions that this process takes from every new file (0o022: nobody else may write it)."""
    try:
        lines = (PROC / "self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration, ValueError, IndexError):
        known = os.umask(0o077)  # it is told only by setting it: what another thread makes meanwhile is not opened wide
        os.umask(known)
        return known


def lives(process: int) -> bool:
    """Whether a process of this number runs on this machine, or its exit has not been asked for yet."""
    if sys.platform != "win32":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError) as e:  # another user's; a number that no process can have
            return isinstance(e, PermissionError)
        return True
    import psutil  # signal 0 would end the process on Windows

    return bool(psutil.pid_exists(process))


def mark(process: int | None = None) -> str:
    """A process as `is_gone` knows it again, for file names: its number, when it began, and which machine it runs on.

    `process`: this one unless given. The same number may come again, on this machine or on another that shares a disk.
    """
    process = os.getpid() if process is None else process
    return f"{process}-{_began(process)}-{_place()}"


def is_gone(marked: str) -> bool:
    """Whether the process that `mark` described has ended for certain: False where that cannot be told from here."""
    process, began, place = marked.split("-")
    if place != _place():
        return False
    if not lives(int(process)):
        return True
    now = _began(int(process))
    return now[0] == began[0] and abs(int(now[1:]) - int(began[1:])) > 1


def _began(process: int) -> str:
    """When a process began, the same whenever it is asked: "t" and ticks since the machine's start on Linux (whose
    clock may be set while the process runs), else "s" and seconds since 1970; "u0" where the system does not say.
    """
    try:
        fields = (PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"t{int(fields.split()[19])}"
    except (OSError, ValueError, IndexError):
        pass
    import psutil

    try:
        return f"s{int(psutil.Process(process).create_time())}"
    except (psutil.Error, OSError, ValueError):
        return "u0"


def _place() -> str:
    """Where numbers of processes mean the same: this machine, and within it this container."""
    try:
        space = os.readlink(PROC / "self/ns/pid")
    except OSError:
        space = ""
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


class Held(Exception):
    """Another process has the lock; `holder` is its number as it wrote it, "" where it did not."""

    def __init__(self, holder: str):
        super().__init__(f"held by process {holder or '?'}")
        self.holder = holder


class Lock:
    """A file locked for this process, until `release` or the process's end, however it ends; the file stays.

    Raises Held at once when another process has it, and OSError when the file cannot be written or locked. The file
    holds the process's number, which is why `filelock` does not serve here: some versions of it empty or delete theirs.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if not _take(self._descriptor):
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                raise Held(os.read(self._descriptor, 64).decode(errors="replace").strip())
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, str(os.getpid()).encode())
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let go of it, also for what was forked meanwhile and has it open; a second call does nothing."""
        if self._descriptor >= 0:
            _let_go(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(path: Path) -> bool:
    """Whether a live process has the file as its Lock; nothing is written to it. False where it cannot be asked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return False
    try:
        return not _try_lock(descriptor, shared=True)  # a network file system lets no reader lock for itself alone
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Lock an open file for this process alone; False when another has it. Who only looks (`is_locked`) has it for a
    moment, lets others look too, and is waited for.
    """
    while not _try_lock(descriptor):
        if _module("fcntl") is None or not _try_lock(descriptor, shared=True):
            return False
        _let_go(descriptor)
        time.sleep(0.001)
    return True


def _let_go(descriptor: int) -> None:
    """Unlock it in every process that has it from this one; where the system cannot, closing it does so here."""
    fcntl = _module("fcntl")
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file for as long as it is open; False when another process has it."""
    fcntl = _module("fcntl")
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            msvcrt = importlib.import_module("msvcrt")
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # EAGAIN; EACCES on Windows and some shared disks
        return False
    return True
