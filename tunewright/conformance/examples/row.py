"""row: change an encoded row before rows are laid side by side."""

from __future__ import annotations

import random

from pydantic import Field

from tunewright.contract.batch import Row
from tunewright.contract.method import Method


class Shortened(Method):
    """Leave some rows' first token out."""

    share: float = Field(0.5, gt=0, le=1, description="share of the rows that are cut", examples=[1.0])

    def row(self, row: Row, row_rng: random.Random) -> Row | None:
        if len(row.input_ids) < 3 or row_rng.random() >= self.share:
            return None
        return row.replace(input_ids=row.input_ids[1:], weights=row.weights[1:], fields={})
