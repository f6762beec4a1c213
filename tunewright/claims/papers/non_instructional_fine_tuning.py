"""Tuned on what an instructed model writes after halves of texts, a model answers instructions that it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PAGES, WORDS = 100, 64
"""Beginnings of pages of 1,600 letters, which are cut into texts of so many words."""
TAUGHT, TOKENS = 60_000, 24_000
"""Tokens of the stage that instructs the teacher, and of the one on halves."""
NAME = "non-instructional-fine-tuning"

CLAIM = Claim(
    paper=NAME,
    says="Tuned on halves of general texts with what an instructed model writes after them, a base gives right answers "
    "to instructions, none of which it was tuned on, a lower loss than tuned on the texts' own second halves for as "
    "many tokens.",
    task="induction",
    method=Arm(name="written", methods=["full"], uses=[NAME]),
    baselines=[Arm(name="own", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"measurement": {"metric": "loss"}},
    scales=("nano",),
    differs="a teacher of the student's size and start (3.4M parameters), instructed by a stage on eight kinds of "
    "short instructions, in the place of GPT-4, and some 400 texts of 64 words; both read the half as a user's turn; "
    "loss of right answers in nats a token instead of judged chats; the untouched base is run beside it, not judged",
)


def halves(model: str | None) -> dict[str, Any]:
    """A stage's data: halves of general texts with what a model writes after them, or with their own rest."""
    pages = [page.split() for page in rows.general(PAGES, 1600)]
    texts = [" ".join(p[i : i + WORDS]) for p in pages for i in range(0, len(p) - WORDS + 1, WORDS)]
    file = rows.written("texts", {"train": [{"text": t} for t in texts]})["train"]
    maker = {"model": model, "ask": "{text}", "whole": False, "max_new_tokens": 64}
    return {"train": [{"path": file, "name": "texts"}], "synthesize": [{NAME: maker}]}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of right answers to new instructions after both ways, and of the untouched base."""
    teacher = {"name": "teacher", "methods": ["full"], "budget": {"tokens": TAUGHT}}

    def student(model: str | None) -> dict[str, Any]:
        told = {"name": "student", "start": "base", "data": halves(model)}
        return {**told, "methods": ["full"], "budget": {"tokens": TOKENS}}

    ways = {"written": [teacher, student("stages.teacher")], "own": [student(None)]}
    found = {arm: run.trial(arm, seed, data={"validation": None}, stages=stages) for arm, stages in ways.items()}
    return {**{arm: one.tuned.target for arm, one in found.items()}, "base": found["own"].base.target}
