"""Rounds of own answers to longer sums reach sums that the ones with known answers do not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KNOWN, ROUNDS, EACH, ASKED = 3, 3, 600, 60
"""Digits of sums whose answers are known, rounds of one digit more each, and sums of each length."""
TAUGHT, ROUND = 200_000, 60_000
"""Tokens of the stage on known answers, and of each round."""

CLAIM = Claim(
    paper="self-improving-transformers",
    says=(
        "A model taught sums of up to three digits, that then learns in three rounds from its own answers to sums one "
        "digit longer each, is right on longer sums more often than one taught the short sums for as many tokens."
    ),
    task="arithmetic",
    method=Arm(name="rounds", methods=["full"], uses=["self-improving-transformers"]),
    baselines=[Arm(name="short-sums", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="a base of 3.4M parameters that reads text, sums from the last digit on, of up to six digits in the place "
    "of a hundred; the length filter (two characters), no vote; exact match on sums of four to six digits",
)


def sums(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of sums by their length in digits, written from the last digit on."""
    made, rng = dict[str, list[dict[str, Any]]](), random.Random(f"{seed}/sums")

    def spelled(number: int) -> str:
        return " ".join(reversed(str(number)))

    for part, each in (("train", EACH), ("eval", ASKED)):
        made[part] = []
        for digits in range(1, KNOWN + ROUNDS + 1):
            for _ in range(each):
                a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
                row = {"prompt": f"{spelled(a)} + {spelled(b)} = ", "completion": spelled(a + b), "level": digits}
                made[part].append(row)
    return made


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Exact match on the longer sums after both ways."""
    made = sums(seed)
    parts = {
        "easy": [r for r in made["train"] if r["level"] <= KNOWN],
        "all": [r if r["level"] <= KNOWN else {**r, "completion": "0"} for r in made["train"]],
        "eval": [r for r in made["eval"] if r["level"] > KNOWN],
    }
    files = rows.written(f"sums-{seed}", parts)
    easy, every = ({"train": [{"path": files[n], "name": "train"}]} for n in ("easy", "all"))
    maker = {"self-improving-transformers": {"known": KNOWN, "shorter": 2, "max_new_tokens": 24}}
    taught = {"name": "taught", "data": easy, "methods": ["full"], "budget": {"tokens": TAUGHT}}
    harder = {
        "name": "harder",
        "rounds": ROUNDS,
        "data": {**every, "synthesize": [maker]},
        "methods": ["full"],
        "budget": {"tokens": ROUND},
    }
    longer = {**taught, "name": "longer", "start": "stages.taught", "budget": {"tokens": ROUNDS * ROUND}}
    data = {**easy, "eval": [{"path": files["eval"], "name": "eval"}], "validation": None}
    ways = {"rounds": [taught, harder], "short-sums": [taught, longer]}
    return {arm: run.trial(arm, seed, data=data, stages=stages).tuned.target for arm, stages in ways.items()}
