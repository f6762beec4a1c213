"""What the machine says of itself, and what is done where it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.machine.session import other_process
from tunewright.machine import host


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Control groups of one's own: the folder of /sys/fs/cgroup. `self/cgroup` of /proc is written by the test."""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(host, "cores", lambda: 8)
    return tmp_path / "groups"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def grouped(group: Path, line: str) -> None:
    write(group.parent / "proc" / "self", cgroup=line)


def test_the_cores_are_those_that_the_process_may_run_on() -> None:
    assert host.cores() == len(os.sched_getaffinity(0)) and 1 <= host.usable_cores() <= host.cores()
    one = min(os.sched_getaffinity(0))
    code = "from tunewright.machine import host; print(host.cores(), host.usable_cores())"
    bound = f"import os; os.sched_setaffinity(0, {{{one}}}); {code}"
    done = subprocess.run([sys.executable, "-c", bound], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_without_an_affinity_all_cores_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert host.cores() == len(psutil.Process().cpu_affinity())
    monkeypatch.delattr(psutil.Process, "cpu_affinity")  # macOS
    assert host.cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("line", "folder", "files", "cores"),
    [
        ("0::/a/b", "a/b", {"cpu__max": "150000 100000"}, 2),
        ("0::/a/b", "a", {"cpu__max": "300000 100000"}, 3),  # of the group above
        ("0::/a/b", "", {"cpu__max": "100000 100000"}, 1),  # a container's own group is the root that it sees
        ("0::/a", "a", {"cpu__max": "max 100000"}, 8),
        ("0::/a", "a", {"cpu__max": "9900000 100000"}, 8),
        ("4:cpu,cpuacct:/a", "cpu,cpuacct/a", {"cpu__cfs_quota_us": "200000", "cpu__cfs_period_us": "100000"}, 2),
        ("4:cpu:/a", "cpu/a", {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 8),
        ("4:memory:/a", "cpu/a", {"cpu__cfs_quota_us": "100000", "cpu__cfs_period_us": "100000"}, 8),  # not its own
    ],
)
def test_a_quota_of_processor_time_bounds_the_usable_cores(
    group: Path, line: str, folder: str, files: dict[str, str], cores: int
) -> None:
    grouped(group, line)
    write(group / folder, **files)
    assert host.usable_cores() == cores


def test_memory_is_bounded_by_the_control_group(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grouped(group, "0::/a/b")
    machine = psutil.virtual_memory().total
    assert host.total_memory() == machine and 0 < (host.available_memory() or 0) <= machine
    stat = "anon 1\ninactive_file 20000000"
    write(group / "a", memory__max="300000000", memory__current="120000000", memory__stat=stat)
    write(group / "a/b", memory__max="max", memory__current="5")
    assert host.total_memory() == 300_000_000
    assert host.available_memory() == 200_000_000  # what the system keeps of files is given up when asked
    write(group / "a/b", memory__max="100", memory__current="170")
    assert (host.total_memory(), host.available_memory()) == (100, 0)


def test_memory_of_the_first_kind_of_control_groups(group: Path) -> None:
    grouped(group, "4:memory:/a\n0::/")
    write(group / "memory/a", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="7")
    assert host.total_memory() == psutil.virtual_memory().total
    write(group / "memory", memory__limit_in_bytes="5000", memory__usage_in_bytes="2000", memory__stat="cache 9")
    assert (host.total_memory(), host.available_memory()) == (5000, 3000)


def test_memory_where_psutil_cannot_tell(monkeypatch: pytest.MonkeyPatch, group: Path) -> None:
    total = psutil.virtual_memory().total

    def missing() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", missing)
    assert host.total_memory() == total
    monkeypatch.delattr(os, "sysconf")
    assert host.total_memory() is None and host.available_memory() is None


def test_the_peak_begins_anew_where_the_system_can() -> None:
    code = """
from tunewright.machine import host
from tunewright.machine.memory import give_back_freed_memory
held = bytearray(200 << 20)
high, whole = host.recent_peak(), host.peak_memory()
del held
give_back_freed_memory(), host.forget_peak()
print(high - host.recent_peak() > 150 << 20, whole > 200 << 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_what_cannot_be_said_is_none_and_a_peak_is_there_all_the_same(
    monkeypatch: pytest.MonkeyPatch, group: Path
) -> None:
    host.forget_peak()
    assert host.recent_peak() is None
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "getloadavg")
    assert host.peak_memory() > 10e6 and host.load_average() is None
    assert host.processor()


def test_which_processes_live() -> None:
    with other_process("") as process:
        assert host.lives(process.pid) and not host.is_gone(host.mark(process.pid))
        marked = host.mark(process.pid)
    assert not host.lives(process.pid) and host.is_gone(marked)
    assert host.lives(os.getpid()) and not host.is_gone(host.mark())
    assert host.lives(1)  # another user's, for whoever is not root
    assert not host.lives(2**40)


def test_a_number_that_came_again_is_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    number, began, place = host.mark().split("-")
    assert host.is_gone(f"{number}-t{int(began[1:]) - 500}-{place}")
    assert not host.is_gone(f"{number}-u0-{place}")  # nobody knows when it began
    monkeypatch.setattr(host, "PROC", tmp_path)
    said = host.mark().split("-")[1]  # the machine's own start, which it is counted from, moves with its clock
    assert said[0] == "s" and abs(int(said[1:]) - psutil.Process().create_time()) < 3
    assert not host.is_gone(f"{number}-{began}-{host.mark().split('-')[2]}")  # ticks and seconds do not compare


def test_a_process_of_another_machine_or_container_may_live(monkeypatch: pytest.MonkeyPatch) -> None:
    number, began, _ = host.mark().split("-")
    assert not host.is_gone(f"{2**22 + 1}-{began}-00000000")
    before = host.mark()
    monkeypatch.setattr(host.platform, "node", lambda: "another")
    assert host.mark() != before and not host.is_gone(before.replace(number, str(2**22 + 1), 1))


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "SIGKILL"), (-15, "SIGTERM"), (-900, "signal 900"), (3, "exit code 3")]
)
def test_what_ended_a_process(code: int, words: str) -> None:
    assert host.ending(code) == words


def test_a_lock_is_free_again_when_it_is_released_or_its_process_killed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4" * 30)  # a dead process's
    first = host.Lock(tmp_path / "lock")
    with pytest.raises(host.Held, match=f"process {os.getpid()}"):
        host.Lock(tmp_path / "lock")
    first.release()
    first.release()
    take = "from pathlib import Path\nfrom tunewright.machine.host import Lock\nlock = Lock(Path(sys.argv[1]))"
    with other_process(take, str(tmp_path / "lock")) as process:
        with pytest.raises(host.Held) as held:
            host.Lock(tmp_path / "lock")
        assert held.value.holder == str(process.pid)
        process.kill()
        process.wait()
        host.Lock(tmp_path / "lock").release()
    assert (tmp_path / "lock").read_text() == str(os.getpid())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_lock_is_free_when_it_is_released_though_a_forked_process_has_it_open(tmp_path: Path) -> None:
    lock = host.Lock(tmp_path / "lock")
    end, go_on = os.pipe()
    child = os.fork()
    if child == 0:  # as one between its fork and its exec
        os.close(go_on)
        os.read(end, 1)
        os._exit(0)
    try:
        lock.release()
        host.Lock(tmp_path / "lock").release()
    finally:
        os.close(go_on)
        os.waitpid(child, 0)
        os.close(end)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no shared locks of this kind")
def test_a_look_at_a_lock_is_waited_for_and_is_no_holder(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "lock").touch()
    looks = os.open(tmp_path / "lock", os.O_RDONLY)  # as `is_locked` has it for a moment
    fcntl.flock(looks, fcntl.LOCK_SH | fcntl.LOCK_NB)
    threading.Timer(0.3, os.close, [looks]).start()
    host.Lock(tmp_path / "lock").release()


def test_a_lock_that_cannot_be_written_is_no_held_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        host.Lock(tmp_path / "none" / "lock")
