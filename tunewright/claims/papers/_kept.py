"""What a selector kept of a pool that is partly of one kind: what claims about selection share."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PASSING: dict[str, Any] = {
    "budget": {"steps": 1},
    "strengths": (1.0,),
    "extra": {"evaluation": {"rows": 8, "drift_sequences": 4}},
}
"""Fields of a claim whose runs are looked at for what was selected alone: they train one step."""


def pool(name: str, wanted: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], seed: int) -> list[Any]:
    """[(row, whether it is wanted)] in an order drawn by the seed."""
    pairs = [(row, True) for row in wanted] + [(row, False) for row in others]
    random.Random(f"{seed}/{name}").shuffle(pairs)
    return pairs


def share(run: ClaimRun, arm: str, seed: int, pairs: Sequence[Any], **more: Any) -> float:
    """The share of wanted rows among those that an arm keeps of a pool. `more`: of the arm's recipe."""
    path = rows.written("kept", {"train": [row for row, _ in pairs]})["train"]
    data = {"train": [{"path": path, "name": "train"}], **more.pop("data", {})}
    record = run.trial(arm, seed, keep_artefacts=True, data=data, **more)
    text = (Path(record.folder) / "selection" / "main.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.strip("\n").split("\n")[1:]]
    kept = [int(line["id"].rpartition(":")[2]) for line in lines if line["rank"] is not None]
    return sum(pairs[number - 1][1] for number in kept) / len(kept)


def by_chance(pairs: Sequence[Any], count: int, seed: int) -> float:
    """The share of wanted rows among `count` rows of the pool drawn at random."""
    return sum(wanted for _, wanted in random.Random(f"{seed}/by chance").sample(list(pairs), count)) / count
