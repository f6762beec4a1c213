"""What methods that choose base weights do with deltas that hang on the model: those that may train go on training."""

from __future__ import annotations

from tunewright.contract.method import Candidates


def trainable_deltas(candidates: Candidates) -> tuple[str, ...]:
    """Names of delta parameters that an earlier stage did not freeze."""
    return tuple(n for n, p in candidates.deltas.items() if not getattr(p, "tunewright_frozen", False))
