"""What every evaluated row gave, in a record: right answers of 200 rows are about 100 characters, losses some 10 a row.

A record travels between processes and machines as one line of JSON, and appears whole or not at all; so these stand in
it, packed, and not in a file beside it. Records of before have none.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tunewright.measure.rows import RowResult


class RowScores(BaseModel):
    """The headline metric row by row, of the base and of the tuned model."""

    model_config = ConfigDict(extra="forbid")

    ids: str = Field(description="hash of the rows' ids in their order")
    base: str = Field(description="values of the untouched base: float64, little-endian, zlib, base64")
    tuned: str = Field(description="values at full strength, alike")
    weights: str | None = Field(None, description="what each row counts in the mean, alike; none: all the same")

    @classmethod
    def of(cls, base: Sequence[RowResult], tuned: Sequence[RowResult]) -> Self:
        """Of the same rows in the same order."""
        weights = [r.weight for r in tuned]
        return cls(
            ids=hashlib.sha256("\n".join(r.id for r in tuned).encode()).hexdigest()[:16],
            base=_packed([r.score for r in base]),
            tuned=_packed([r.score for r in tuned]),
            weights=_packed(weights) if len(set(weights)) > 1 else None,
        )

    @property
    def values(self) -> np.ndarray:
        """Of the tuned model, [rows]."""
        return _unpacked(self.tuned)

    @property
    def gains(self) -> np.ndarray:
        """Tuned minus base, [rows]."""
        return self.values - _unpacked(self.base)

    @property
    def counts(self) -> np.ndarray | None:
        """What each row counts, [rows]; none: all the same."""
        return None if self.weights is None else _unpacked(self.weights)

    def same_rows(self, other: RowScores) -> bool:
        return (self.ids, self.weights) == (other.ids, other.weights)


def _packed(values: Sequence[float]) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, "<f8").tobytes(), 9)).decode("ascii")


def _unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f8")
