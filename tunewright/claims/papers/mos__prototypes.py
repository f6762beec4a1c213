"""MOS ends a sequence of new classes better than the class prototypes of the untouched model, which nothing trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished
from tunewright.pieces.means import token_means
from tunewright.pieces.prototypes import class_means, cosine_logits

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun
    from tunewright.recipe import Source

CLAIM = Claim(
    paper="mos",
    says="Where classes arrive task by task, MOS does better on all classes at the end than the cosine classifier of "
    "the untouched model's class means.",
    task="classes",
    method=Arm(name="mos", methods=["mos"]),
    baselines=[Arm(name="prototypes", methods=["mos"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="short texts instead of pictures, five tasks of two classes; prototypes are of the mean over a text's "
    "tokens in the last layer, since the head's own features are new, and one figure for all seeds; one learning rate, "
    "the task's own",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the rows that the run is judged on: of the finished sequence, and of the base's prototypes."""
    from tunewright.finished.finished import open_run

    recipe = run.recipe("mos", seed)
    record = finished(run, recipe)
    opened, classes = open_run(record.folder), {name: i for i, name in enumerate(recipe.data.labels or ())}
    train, judged = rows_of(recipe.data.train), rows_of(recipe.data.eval)[: recipe.measurement.rows]
    with opened.adapted.base() as base:
        means = class_means(_features(base, opened.tokenizer, train), _labels(train, classes))
        said = cosine_logits(_features(base, opened.tokenizer, judged), torch.stack(list(means.values()))).argmax(-1)
    return {"mos": record.tuned.target, "prototypes": float((said == _labels(judged, classes)).float().mean())}


def rows_of(sources: Sequence[Source] | None) -> list[dict[str, Any]]:
    """A lab task's rows of these sources, in order."""
    lines = [line for s in sources or () for line in Path(s.path).read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def _labels(rows: Sequence[dict[str, Any]], classes: Mapping[str, int]) -> Tensor:
    return torch.tensor([classes[r["label"]] for r in rows])


def tokens_of(tokenizer: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [R, L] of the rows' texts."""
    given = tokenizer([r["text"] for r in rows], return_tensors="pt", padding=True, truncation=True)
    return {k: given[k] for k in ("input_ids", "attention_mask")}


@torch.no_grad()
def _features(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> Tensor:
    """[R, D]: each text's mean over its tokens in the last layer."""
    found: list[Tensor] = []
    for i in range(0, len(rows), 50):
        inputs = tokens_of(tokenizer, rows[i : i + 50])
        found.append(token_means(model.base_model(**inputs).last_hidden_state, inputs["attention_mask"]))
    return torch.cat(found)
