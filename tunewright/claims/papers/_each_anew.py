"""A stream whose every corruption is met from the start, for claims about the soft Hebbian rule."""

from __future__ import annotations

from typing import Any

from tunewright.claims.papers._streams import CORRUPTIONS

EACH_ANEW: dict[str, Any] = {
    "test_time": {
        "adapt": ["tent", "nhl", {"nhl": {"feedback": 0.0}}],
        "corruptions": CORRUPTIONS,
        "rows": 200,
        "batch_rows": 50,
        "reset": "source",
    }
}
