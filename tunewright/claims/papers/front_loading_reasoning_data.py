"""Reasoning rows that are read early, and then tuned on, are learnt better than those that are tuned on alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _fresh
from tunewright.data.generators.tint import Rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TEXT, EARLY, TUNED = 240_000, 60_000, 60_000
"""Bytes of text, of reasoning that one arm reads among it and the other tunes on, and that both tune on."""
RATE = 2e-3
DIFFERS = (
    "a model of 0.2M parameters that reads 360,000 bytes, and traces of five functions of lists, in the place of 8B "
    "parameters, a trillion tokens and problems from everywhere; no reinforcement learning after; one rate, "
    "2e-3, in both stages and not tuned; loss in nats a byte of traces of other lists"
)

CLAIM = Claim(
    paper="front-loading-reasoning-data",
    says="Where a sixth of what is read is reasoning, once among the text of pre-training and once added to the tuning "
    "that follows it in both, the model that read it early has the lower loss on new reasoning.",
    task="domain",
    method=Arm(name="early", methods=["full"]),
    baselines=[Arm(name="late", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs=DIFFERS,
)


def files(seed: int) -> dict[str, str]:
    """`broad` reasoning of many rows, `good` reasoning to tune on, and `eval`; no list of the last is in the others."""
    held = {r["prompt"] for r in Rows(rows=250, seed=3 * seed + 2, most=4).make()}
    made = {"broad": Rows(rows=4000, seed=3 * seed, most=4), "good": Rows(rows=1000, seed=3 * seed + 1, most=4)}
    parts = {name: [r for r in found.make() if r["prompt"] not in held] for name, found in made.items()}
    return rows.written("front-loading", {**parts, "eval": list(Rows(rows=250, seed=3 * seed + 2, most=4).make())})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new traces at the end; beside it that of the model that read no reasoning early and none more later."""
    made, text = files(seed), {"path": _fresh.general(), "name": "text", "format": "text"}
    broad, good = ({"path": made[n], "name": n} for n in ("broad", "good"))
    share = EARLY / (TEXT + EARLY)
    mixed = [{**text, "weight": 1 - share}, {**broad, "weight": share}]
    more = EARLY / (EARLY + TUNED)
    stages: dict[str, list[dict[str, Any]]] = {
        "early": [_fresh.stage("read", mixed, TEXT + EARLY, RATE), _fresh.stage("tuned", [good], TUNED, RATE)],
        "late": [
            _fresh.stage("read", [text], TEXT, RATE),
            _fresh.stage("tuned", [{**good, "weight": 1 - more}, {**broad, "weight": more}], EARLY + TUNED, RATE),
        ],
        "less": [_fresh.stage("read", [text], TEXT, RATE), _fresh.stage("tuned", [good], TUNED, RATE)],
    }
    found = dict[str, float]()
    judged = {"eval": [{"path": made["eval"], "name": "eval"}], "validation": None, "chat": False}
    for name, some in stages.items():
        arm = "early" if name == "early" else "late"
        record = run.trial(arm, seed, model=_fresh.model(seed, 259), data=judged, stages=some)
        found |= {"base": float(record.base.target), name: float(record.tuned.target)}
    return found
