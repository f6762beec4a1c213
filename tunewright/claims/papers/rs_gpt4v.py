"""Descriptions that go from the parts to the whole teach to tell the whole better than the whole alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _scenes
from tunewright.contract.records import Record
from tunewright.data.synthesize._scene import scene_of
from tunewright.data.synthesize.rs_gpt4v import DETAIL

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LEARNT, JUDGED, TOKENS, RATES = 400, 200, 600_000, (5e-4, 1e-3)
"""Pictures to learn from and to be judged on, what each arm reads, and the rates that it chooses from."""
WHOLE = "In all, "
"""How what is said of the whole begins: how many things there are of each kind."""
USE: dict[str, Any] = {"forms": ["description"], "relations": 0}

CLAIM = Claim(
    paper="rs-gpt4v",
    says="For as many tokens on the same pictures, a model that sees is tuned on descriptions that go from the parts "
    "(each thing, what it is like, where it lies) to the whole (how many there are of each kind), and tells the whole "
    "of more new pictures right than one tuned on the whole alone, by at least five points.",
    task="arithmetic",
    method=Arm(name="hierarchical", methods=["full"], uses=["rs-gpt4v"]),
    baselines=[Arm(name="whole", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"data": {"train": None, "eval": None, "validation": None}, "keep": []},
    scales=("nano",),
    differs="drawn scenes of coloured shapes, and a model of 0.3M parameters that knew flat captions; what is "
    "said comes from annotations by rules, not from GPT-4V; neither questions nor turns; the paper gives no figures",
)


def _unnamed(row: _scenes.Row) -> _scenes.Row:
    """A scene without its flat caption, which would end the whole."""
    return {k: v for k, v in row.items() if k != "text"}


def _whole(row: _scenes.Row) -> _scenes.Row:
    """A picture, asked for in detail and answered by its whole alone."""
    told = scene_of(Record(_unnamed(row), id="scene", where="scene"), "coco").globally()
    return _scenes.flat(row, DETAIL, told)


def _ends_alike(answer: str, reference: str) -> bool:
    """Whether an answer says the whole, as the reference does, however it began."""
    return answer.rpartition(WHOLE)[1:] == reference.rpartition(WHOLE)[1:]


def files(seed: int) -> dict[str, str]:
    """What each arm learns from, and pictures that neither has seen, with the answers that it is to give."""
    train = _scenes.scenes(LEARNT, 3 * seed + 1)
    seen = {row["image"] for row in train}
    fresh = ([r for r in _scenes.scenes(2 * JUDGED, 3 * seed + n) if r["image"] not in seen] for n in (2, 3))
    validation, judged = (some[:JUDGED] for some in fresh)
    parts = {"hierarchical": [_unnamed(row) for row in train], "whole": [_whole(row) for row in train]}
    for part, some in (("validation", validation), ("eval", judged)):
        parts[f"{part}-whole"] = [_whole(row) for row in some]
        parts[f"{part}-hierarchical"] = _scenes.said([_unnamed(row) for row in some], seed, **USE)
    return rows.written("parts-and-whole", parts)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new pictures whose whole is told right; `base`: before anything is learnt."""

    def after(arm: str, number: int, judged: str, at: float) -> dict[str, float]:
        found = files(number)
        data: dict[str, Any] = {
            "train": [{"path": found[arm], "name": "train"}],
            "eval": [{"path": found[f"{judged}-{arm}"], "name": "eval"}],
        }
        record = run.trial(
            arm,
            number,
            keep_artefacts=True,
            model=_scenes.model(),
            task="image-text-to-text",
            data={**data, "synthesize": [{"rs-gpt4v": USE}]} if arm == "hierarchical" else data,
            budget={"tokens": TOKENS},
            train={"learning_rate": at, "batch_tokens": 512},
            evaluation={"rows": JUDGED, "max_new_tokens": 80, "metric": "exact_match"},
        )
        lines = (Path(record.folder) / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines]
        right = {k: [_ends_alike(t[k], t["reference"]) for t in told] for k in ("base", "tuned")}
        return {k: sum(some) / len(some) for k, some in right.items()}

    out = dict[str, float]()
    for arm in (a.name for a in run.claim.arms):
        best = max(RATES, key=lambda at: after(arm, run.first, "validation", at)["tuned"])  # noqa: B023
        found = after(arm, seed, "eval", best)
        out |= {"base": found["base"], arm: found["tuned"]}
    return out
