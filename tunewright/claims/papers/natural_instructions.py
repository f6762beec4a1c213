"""Told in words what to do, a model does tasks that it never saw better than one that saw inputs alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.data.shapes import canonical
from tunewright.data.task_file import task_rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

EACH, ASKED, HELD_OUT, TOKENS = 24, 4, 12, 200_000
Words = list[str]
STEPS: dict[str, tuple[str, Callable[[Words], Words]]] = {
    "reverse": ("put the words in reverse order", lambda w: w[::-1]),
    "first": ("keep the first word alone", lambda w: w[:1]),
    "last": ("keep the last word alone", lambda w: w[-1:]),
    "twice": ("write every word twice", lambda w: [x for x in w for _ in range(2)]),
    "drop": ("leave the first word out", lambda w: w[1:]),
    "sort": ("put the words in the order of the alphabet", sorted),
    "loud": ("write every word in capitals", lambda w: [x.upper() for x in w]),
    "begin": ("put the word begin before them", lambda w: ["begin", *w]),
}
WORDS = ("river", "stone", "lamp", "road", "glass", "north", "salt", "ring", "cloud", "door")

CLAIM = Claim(
    paper="natural-instructions",
    says=(
        "A model that learnt tasks with their definitions gives the right outputs of tasks that it never saw a lower "
        "loss than a model that learnt the same rows without any instruction, each asked as it was taught."
    ),
    task="domain",
    method=Arm(name="instructions", methods=["full"]),
    baselines=[Arm(name="inputs", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="56 tasks, each two of eight steps on lists of words one after the other, of which 12 are not seen, in the "
    "place of 61 crowdsourced ones; definitions alone; a base of 3.4M parameters; loss in nats a token of the output",
)


def tasks(seed: int) -> dict[str, dict[str, Any]]:
    """Every pair of different steps as a task with its definition and instances, by name."""
    made = {}
    for a, (said_a, do_a) in STEPS.items():
        for b, (said_b, do_b) in STEPS.items():
            if a == b:
                continue
            rng = random.Random(f"{seed}/{a}/{b}")
            lists = [rng.sample(WORDS, rng.randint(2, 4)) for _ in range(EACH + ASKED)]
            made[f"{a}-{b}"] = {
                "Definition": [f"First {said_a}, then {said_b}."],
                "Instances": [{"input": " ".join(w), "output": [" ".join(do_b(do_a(w)))]} for w in lists],
            }
    return made


def told(task: dict[str, Any], name: str, form: str) -> list[dict[str, Any]]:
    """The rows of a task as a format shows them."""
    read = json.loads(json.dumps(task))
    shown = [canonical(row, {}, form)[0] for _, row in task_rows(read, name) if isinstance(row, dict)]
    return [{"prompt": r["prompt"], "completion": r["completion"] or "nothing"} for r in shown]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the outputs of the tasks that were held out, after both ways of being taught."""
    made = tasks(seed)
    names = sorted(made)
    random.Random(f"{seed}/held out").shuffle(names)
    held, seen = names[:HELD_OUT], names[HELD_OUT:]
    found = {}
    for arm, form in (("instructions", "natural-instructions-definition"), ("inputs", "natural-instructions-input")):
        parts = {
            "train": [row for n in seen for row in told(made[n], n, form)[:EACH]],
            "eval": [row for n in held for row in told(made[n], n, form)[EACH:]],
        }
        files = rows.written(f"told-{arm}-{seed}", parts)
        data = {
            "train": [{"path": files["train"], "name": "train"}],
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        trial = run.trial(arm, seed, data=data, budget={"tokens": TOKENS}, measurement={"metric": "loss"})
        found[arm] = trial.tuned.target
    return found
