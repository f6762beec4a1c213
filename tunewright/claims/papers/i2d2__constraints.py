"""Of statements that keep to lexical constraints a critic accepts a larger share than of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.i2d2 import lists, stages

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ASKED_FOR = ("first", "last", "largest", "smallest")
"""Functions whose value is one digit: the constraint is that a statement is one."""

CLAIM = Claim(
    paper="i2d2",
    says="Of a model's own statements that keep to lexical constraints (one word, a digit) a critic accepts a larger "
    "share than of all that it draws after the same prompts.",
    task="arithmetic",
    method=Arm(name="constrained", methods=["full"], uses=["i2d2", "exact-answer"]),
    baselines=[Arm(name="free", methods=["full"], uses=["i2d2", "exact-answer"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"evaluation": {"rows": 8, "drift_sequences": 4}},
    scales=("nano",),
    differs="constraints hold by throwing draws away, not by NeuroLogic's beam; a critic that is always right; a model "
    "of 3.4M parameters that learnt 150 answers, and writes one digit anyway: few draws are thrown away",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the draws that are judged which the critic accepts, equal ones after a prompt counted once."""
    files = rows.written(f"digits-{seed}", lists(seed, ASKED_FOR))
    data = {"train": [{"path": files["known"]}], "eval": [{"path": files["eval"], "name": "eval"}], "validation": None}
    limits: dict[str, dict[str, Any]] = {
        "constrained": {"one_of": [list("0123456789")], "most_words": 1},
        "free": {},
    }
    found = {}
    for arm, maker in limits.items():
        record = run.trial(
            arm, seed, keep_artefacts=True, data=data, stages=stages(files, {"accept": 1.0, **maker}, times=1)
        )
        _, *lines = (Path(record.folder) / "made" / "own-1.jsonl").read_text(encoding="utf-8").splitlines()
        scores = [told["scores"]["judged"] for told in map(json.loads, lines) if told.get("scores")]
        found[arm] = sum(scores) / len(scores)
    return found
