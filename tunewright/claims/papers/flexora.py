"""Low-rank changes in the blocks that validation rows chose do better than in all blocks, where rows are few."""

from __future__ import annotations

from typing import Any

from tunewright.claims.claim import Arm, Claim

CHOSEN = {"flexora": {"validation_batches": 2}}
SEARCH: dict[str, Any] = {"name": "search", "methods": [CHOSEN], "budget": {"epochs": 2}}
TUNE: dict[str, Any] = {"name": "tune", "start": "base", "budget": {"epochs": 6}}
FEW: dict[str, Any] = {
    "data": {"train": [{"name": "train", "limit": 200}]},
    "train": {"batch_tokens": 128},
}
"""200 of the task's rows, about ten a step."""
FLEXORA = Arm(name="flexora", methods=[CHOSEN], extra={"stages": [SEARCH, TUNE]})

CLAIM = Claim(
    paper="flexora",
    says="Tuned on 200 rows, low-rank changes in the blocks that a search by validation loss keeps are at least a "
    "point more accurate than the same changes in all blocks, after as many epochs.",
    task="topics",
    method=FLEXORA,
    baselines=[Arm(name="lora", methods=[{"lora": {"rank": 8}}], extra={"stages": [TUNE]})],
    metric="target",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(1e-3, 3e-3),
    strengths=(1.0,),
    extra=FEW,
    scales=("real",),
    differs="an encoder of six blocks and ten domains of queries instead of language models of 32 and questions; few "
    "rows, since the paper explains its gain by over-fitting; the search's own steps come on top, as there; the rows "
    "that the search looks at also choose both arms' rates",
)
