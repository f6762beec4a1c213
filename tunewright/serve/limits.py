"""What a server takes, at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Lengths are in tokens, sizes in bytes, times in seconds. Rows: answers that are written at the same time."""

    max_length: int = 4096
    """A prompt and its answer together."""
    max_batch: int = 32
    """Rows in one step."""
    cache_tokens: int = 65536
    """Seats of all rows together."""
    chunk: int = 512
    """Tokens of prompts that are read in one step, so that rows which are written wait no longer."""
    queue: int = 256
    """Requests that wait for a seat."""
    prefix_bytes: int = 256 << 20
    """Keys and values of prompts that are kept for others that begin alike."""
    adapter_bytes: int = 1 << 30
    """Adapters in memory, besides those in use."""
    active_bytes: int = 1 << 30
    """Adapters on the model."""
    body_bytes: int = 2 << 20
    """A request's body."""
    seconds: float = 600.0
    """A request, from its arrival to its end."""
    step_seconds: float = 0.05
    """What a step and what runs between steps should take together."""
