"""Of answers that several authors word, all of them right, those that the model finds likeliest teach it the most."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PROMPTS, ASKED, TOKENS = 160, 100, 12_000
AUTHORS: tuple[tuple[str, ...], ...] = (
    ("It is about {t}.", "They ask about {t}.", "This is a question about {t}."),
    ("The message of the customer has to do with the topic: {t}", "I think that the right topic would be: {t}"),
    ("ANSWER >>> {T}", "TOPIC >>> {T}"),
    ("{u} (label)", "label:{u}", "=> {u}"),
)
"""How each author words a topic t; T is in capitals, and u with underscores."""

CLAIM = Claim(
    paper="grape",
    says="Tuned on the likeliest of four right answers to each prompt, a model tells a prompt's topic from another one "
    "more often, in the wording in which it does this best, than one that is tuned on an answer drawn at random, for "
    "as many tokens.",
    task="intents",
    method=Arm(name="grape", methods=["full"], extra={"data": {"select": ["grape"]}}),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="topics of bank customers' messages, and four authors who word them by templates, in the place of "
    "reasoning and instructions answered by several models: none of them is wrong, or stronger; a base of 3.4M "
    "parameters; one rate; all four answers, for as many tokens, are run beside and not judged",
)


def files(seed: int) -> dict[str, str]:
    """Prompts with an answer of each author (`all`), with one drawn (`random`), and pairs of a right and a wrong topic,
    each prompt's in the words of each author (`eval`).
    """
    rng = random.Random(f"{seed}/authors")
    read = {
        part: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        for part, path in rows.preferences().items()
    }
    told = [
        [{"prompt": r["prompt"], "completion": _worded(r["chosen"], author, rng)} for author in AUTHORS]
        for r in rng.sample(read["train"], PROMPTS)
    ]
    some = [rng.choice(answers) for answers in told]
    every = [answer for answers in told for answer in answers]
    pairs = [
        {"prompt": r["prompt"], **{side: author[0].format(**_forms(r[side])) for side in ("chosen", "rejected")}}
        for r in read["eval"][:ASKED]
        for author in AUTHORS
    ]
    return rows.written(f"authors-{seed}", {"all": every, "random": some, "eval": pairs})


def _forms(topic: str) -> dict[str, str]:
    return {"t": topic, "T": topic.upper(), "u": topic.replace(" ", "_")}


def _worded(topic: str, author: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(author).format(**_forms(topic))


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of pairs whose right topic is the likelier one, in the best of four wordings, of each arm its own."""
    made, found = files(seed), dict[str, float]()
    for name in ("grape", "random", "all"):
        data: dict[str, Any] = {
            "train": [{"path": made["random" if name == "random" else "all"], "name": "train"}],
            "eval": [{"path": made["eval"], "name": "eval"}],
            "validation": None,
        }
        arm = "grape" if name == "grape" else "random"
        judged = {"metric": "pair_accuracy", "rows": ASKED * len(AUTHORS)}
        record = run.trial(arm, seed, data=data, budget={"tokens": TOKENS}, evaluation=judged)
        asked = len(record.rows.values) // len(AUTHORS)  # fewer than ASKED in a run that is cut short
        each, gains = (v[: asked * len(AUTHORS)].reshape(asked, -1) for v in (record.rows.values, record.rows.gains))
        found |= {"base": float((each - gains).mean(0).max())}
        found |= {name: float(each.mean(0).max())}
    return found
