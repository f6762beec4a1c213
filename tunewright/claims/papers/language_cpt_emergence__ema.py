"""In another language, the average of the weights keeps the skill at learning from context without any English."""

from __future__ import annotations

from tunewright.claims.claim import Arm
from tunewright.claims.papers import language_cpt_emergence as first

CLAIM = first.CLAIM.model_copy(
    update={
        "says": "Going on in German without English, the moving average of the weights continues made sequences by "
        "copying and induction better than the last weights do.",
        "method": Arm(name="ema", methods=["full", first.AVERAGE]),
    }
)
measure = first.measure
