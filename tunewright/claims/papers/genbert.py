"""Taught on made numerical rows first, a model learns people's word problems to a lower loss than without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.data.generators.genbert import spaced

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SKILL, TASK, ASKED = 300_000, 60_000, 200
"""Tokens of the made rows and of the task's, and problems that are held out."""
MADE = {"rows": 8000, "kinds": ["signed", "extreme", "story"], "largest": 100, "spaced": True}

CLAIM = Claim(
    paper="genbert",
    says=(
        "A model that was first taught on made expressions and stories, beside replayed text, has a lower loss on the "
        "answers to new word problems after learning such problems than one that learnt the problems alone, for as "
        "many tokens of them."
    ),
    task="arithmetic",
    method=Arm(name="skill", methods=["full"]),
    baselines=[Arm(name="task", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="SVAMP's problems in the place of DROP's; a base of 3.4M parameters that goes on with text, without span "
    "heads; three kinds of made rows, 300,000 tokens of them; digits apart in both; loss in nats a token of the answer",
)


def problems() -> dict[str, str]:
    """Files of SVAMP's problems: to learn, and held out."""
    found = [
        {
            "prompt": f"{spaced(r['body'].rstrip('. '))}. {spaced(r['question'])}\n",
            "completion": spaced(f"{float(r['answer']):g}"),
        }
        for r in rows.shuffled(corpus.rows("svamp/test.jsonl.gz"))
    ]
    return rows.written("svamp-problems", {"train": found[ASKED:], "eval": found[:ASKED]})


def pages() -> dict[str, str]:
    """Files of general text: to replay, and others."""
    found = [{"text": t} for t in rows.shuffled(rows.general(160))]
    return rows.written("skill-pages", {"replay": found[:120], "other": found[120:]})


def skill(seed: int, tokens: int, replay: float) -> dict[str, Any]:
    """A stage on made rows, with a share of general text."""
    made = {"path": "make:genbert", "name": "train", "parameters": {**MADE, "seed": seed}}
    data: dict[str, Any] = {"train": [made], "chat": False}
    if replay:
        data["replay"] = {pages()["replay"]: replay}
    return {"name": "skill", "data": data, "methods": ["full"], "budget": {"tokens": tokens}}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers to the problems that were held out, after both ways."""
    files = problems()
    data = {
        "train": [{"path": files["train"], "name": "train"}],
        "eval": [{"path": files["eval"], "name": "eval"}],
        "validation": None,
        "chat": False,
    }
    task = {"name": "task", "data": {"train": data["train"]}, "methods": ["full"], "budget": {"tokens": TASK}}
    ways = {"skill": [skill(seed, SKILL, 0.2), task], "task": [task]}
    return {
        arm: float(run.trial(arm, seed, data=data, stages=stages, measurement={"metric": "loss"}).tuned.target)
        for arm, stages in ways.items()
    }
