"""Texts by rule that show k skills at once, one phrase for each: what claims on skill composition share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

KINDS: dict[str, dict[str, str]] = {
    "rhetoric": {"repeat": "{t}, {t}!", "ask": "who has {t}?", "praise": "good {t}!", "deny": "no {t} here."},
    "number": {"count": "two {t}.", "halve": "half of {t}.", "many": "so many {t}.", "none": "never {t}."},
    "place": {"near": "{t} is near.", "above": "look up, {t}.", "below": "{t} down there.", "home": "{t} at home."},
    "time": {"past": "it was {t}.", "soon": "soon {t}.", "now": "now {t}.", "always": "{t} every day."},
    "person": {"mine": "my {t}.", "yours": "your {t}.", "theirs": "their {t}.", "ours": "{t} for all of us."},
}
"""Kind -> skill -> the phrase that shows it of a topic t."""
HELD_OUT = "person"
TOPICS = (
    "river stone lamp road glass north salt ring cloud door wheel bread horse tower copper garden window paper shadow "
    "button harbour pepper basket candle money water music letter summer train"
).split()
TOKENS, ASKED = 120_000, 200
"""Tokens that are learnt, and texts that are judged."""

Row = dict[str, Any]


def skills(held_out: bool) -> list[str]:
    """The skills of the kinds that combinations are learnt of, or of the kind that is held out."""
    return [name for kind, some in KINDS.items() for name in some if (kind == HELD_OUT) == held_out]


def text(some: Sequence[str], count: int, rng: random.Random) -> Row:
    """A row that asks for `count` different ones of some skills in a text on a topic, and the text."""
    phrases = {name: phrase for kind in KINDS.values() for name, phrase in kind.items()}
    names, topic = rng.sample(list(some), count), rng.choice(TOPICS)
    said = " ".join(phrases[name].format(t=topic) for name in names)
    return {"prompt": f"{topic}: {', '.join(names)}", "completion": said, "k": count}


def parts(seed: int, asked: Sequence[int], held_out: bool) -> dict[str, list[Row]]:
    """`single` texts of every skill, `combined` as many of one of every skill as of two and of three that are not held
    out, and `eval`.
    """
    rng = random.Random(f"{seed}/skills")
    every, learnt = skills(False) + skills(True), skills(False)
    return {
        "single": [text(every, 1, rng) for _ in range(3000)],
        "combined": [text(learnt if i % 3 else every, 1 + i % 3, rng) for i in range(3000)],
        "eval": [text(skills(held_out), asked[i % len(asked)], rng) for i in range(ASKED)],
    }


def measured(run: ClaimRun, seed: int, asked: Sequence[int], held_out: bool) -> dict[str, float]:
    """Share of texts of `asked` skills that are right in every word, after each way of tuning."""
    files = rows.written(f"skills-{seed}", parts(seed, asked, held_out))
    found = {}
    for arm in ("combined", "single"):
        data = {
            "train": [{"path": files[arm], "name": "train"}],
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
        }
        limit: dict[str, Any] = {"evaluation": {"max_new_tokens": 64}}
        found[arm] = float(run.trial(arm, seed, data=data, budget={"tokens": TOKENS}, **limit).tuned.target)
    return found
