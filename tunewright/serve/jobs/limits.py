"""What the jobs of a server take, at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobLimits:
    """Sizes are in bytes."""

    at_once: int = 1
    """Jobs that train at the same time."""
    waiting: int = 100
    """Jobs that wait or are paused."""
    kept: int = 10_000
    """Jobs that are known, finished ones too."""
    file_bytes: int = 512 << 20
    """One file."""
    files_bytes: int = 8 << 30
    """All files together."""
    files: int = 1000
    body_bytes: int = 1 << 20
    """The body of a request that is no upload."""
    attempts: int = 3
    """Times that a job whose worker is killed is gone on with."""
