"""At equal cost, exits trained with their gates are right more often than a threshold on exits trained without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished
from tunewright.claims.papers.mos__prototypes import rows_of, tokens_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

STEPS = {"steps": 200}


def _stages(**fields: Any) -> dict[str, Any]:
    """A classifier trained whole, then exits inside it."""
    exits = {
        "name": "exits",
        "start": "stages.whole",
        "carry": "fold",
        "budget": STEPS,
        "methods": [{"jei-dnn": fields}],
    }
    whole = {"name": "whole", "budget": {"steps": 120}, "methods": ["full"], "train": {"learning_rate": 1e-4}}
    return {"stages": [whole, exits]}


CLAIM = Claim(
    paper="jei-dnn",
    says="In a frozen, trained classifier, exits whose gates and answers train together are right more often than "
    "exits that are trained alike and left by a threshold on their confidence, which runs at least as many blocks.",
    task="topics",
    method=Arm(name="joint", methods=["jei-dnn"], extra=_stages()),
    baselines=[Arm(name="threshold", methods=["jei-dnn"], extra=_stages(warmup=0.99))],
    metric="measured",
    direction="higher",
    smallest=0.005,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano", "real"),
    differs="a text encoder of six blocks and ten domains in the place of vision transformers of 7 and 14 on CIFAR and "
    "SVHN; one cost, not a curve; the threshold is chosen on the judged rows themselves",
)


@torch.no_grad()
def _every(opened: Any, inputs: dict[str, Tensor]) -> Tensor:
    """[R, L, V] what every exit answers."""
    from tunewright.models.context import Present, Rows, reading

    now, wrapper = Present(Rows()), opened.adapted.outer.train()
    with reading(now):
        out = wrapper(**inputs)
    return torch.cat([now.notes["exits"][0], out.logits[:, None]], 1)


@torch.no_grad()
def _used(opened: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(logits [R, V], blocks run [R]) as rows leave by the gates."""
    from tunewright.models.context import Present, Rows, reading

    now = Present(Rows())
    with reading(now):
        out = opened.adapted.outer.eval()(**inputs)
    return out.logits, now.notes["blocks"][0]


def thresholded(every: Tensor, blocks: float) -> tuple[Tensor, float]:
    """(class [R], mean blocks) of answers [R, L, V], each row by its first exit of confidence t or more (by the last
    where there is none): the smallest t that runs `blocks` a row on average at least."""
    sure, said = every.softmax(-1).max(-1)
    sure[:, -1] = 2.0
    for t in [*sorted(set(sure[:, :-1].flatten().tolist())), 1.5]:
        at = (sure >= t).float().argmax(1)
        mean = float((at + 1).float().mean())
        if mean >= blocks:
            return said.gather(1, at[:, None])[:, 0], mean
    raise AssertionError("the last threshold runs every block")


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy of both on the judged rows, the threshold's at the joint one's blocks or more."""
    from tunewright.finished.finished import open_run

    opened = {arm: open_run(finished(run, run.recipe(arm, seed)).folder) for arm in ("joint", "threshold")}
    recipe = run.recipe("joint", seed)
    rows = rows_of(recipe.data.eval)[: recipe.measurement.rows]
    known = opened["joint"].adapted.model.config.label2id  # type: ignore[union-attr]
    right = torch.tensor([known[r["label"]] for r in rows])  # type: ignore[index]
    used, every = [], []
    for i in range(0, len(rows), 50):
        used.append(_used(opened["joint"], tokens_of(opened["joint"].tokenizer, rows[i : i + 50])))
        every.append(_every(opened["threshold"], tokens_of(opened["threshold"].tokenizer, rows[i : i + 50])))
    blocks = float(torch.cat([b for _, b in used]).float().mean())
    said, _ = thresholded(torch.cat(every), blocks)
    joint = float((torch.cat([x for x, _ in used]).argmax(-1) == right).float().mean())
    return {"joint": joint, "threshold": float((said == right).float().mean())}
