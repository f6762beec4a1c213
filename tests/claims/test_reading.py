from __future__ import annotations

import pytest

from tunewright.claims import simulate_reading as simulate
from tunewright.claims.claim import Claim
from tunewright.measure.trade import NEAR

ROWS = list(simulate.readings())


def test_the_chords_bias_is_gone_where_strengths_are_closer_near_the_target():
    """A smallest effect of interest is 0.02: chords through four strengths alone are off by more."""
    near = [r for r in ROWS if r[1] == "8, closer near the target"]
    assert len(near) == len(simulate.PAIRS) and all(abs(read) <= 0.004 for *_, read in near)
    chords = [abs(c) for _, grid, _, c, _ in ROWS if grid == "4, evenly"]
    assert sum(c > 0.03 for c in chords) >= 3 and max(chords) > 0.1


def test_claims_are_measured_at_these_strengths_unless_they_say_others():
    assert Claim.model_fields["strengths"].default == NEAR
    assert max(b - a for a, b in zip(NEAR[1:], NEAR[2:], strict=False)) == pytest.approx(0.1)


def test_the_table_has_a_row_a_reading():
    assert simulate.table(ROWS).count("\n") == len(ROWS) + 1
