"""Tasks that are told in words: is a customer's message about this topic? Some topics have rows, others only a name."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from tunewright.claims.lab import corpus, rows

SEEN, TRIED, NEW = 40, 8, 12
"""Topics to learn from, to choose rates on, and to judge on."""
EACH = {"seen": 16, "tried": 20, "new": 20}
"""Rows of a topic, half of them about another one."""


@cache
def topics() -> dict[str, list[str]]:
    """Topics of clinc150 by what they are for, drawn once."""
    found = corpus.rows("clinc150/train.jsonl.gz")
    names = sorted({r["intent"].replace("_", " ") for r in found if r["domain"] != "oos"})
    drawn = random.Random("described").sample(names, SEEN + TRIED + NEW)
    return {"seen": drawn[:SEEN], "tried": drawn[SEEN : SEEN + TRIED], "new": drawn[SEEN + TRIED :]}


@cache
def files() -> dict[str, dict[str, str]]:
    """Part -> topic -> its file: rows of "text", the topic before the message, and "label"."""
    by_topic: dict[str, list[str]] = {}
    for r in rows.shuffled(corpus.rows("clinc150/train.jsonl.gz")):
        by_topic.setdefault(r["intent"].replace("_", " "), []).append(r["text"])
    out: dict[str, dict[str, str]] = {}
    for part, names in topics().items():
        rng = random.Random(f"described/{part}")
        made = {}
        for topic in names:
            about = rng.sample(by_topic[topic], EACH[part] // 2)
            others = [rng.choice(by_topic[rng.choice([n for n in names if n != topic])]) for _ in about]
            both = [{"text": f"{topic}: {t}", "label": "yes"} for t in about]
            both += [{"text": f"{topic}: {t}", "label": "no"} for t in others]
            rng.shuffle(both)
            made[topic] = rows.written("described", {topic.replace(" ", "-"): both})[topic.replace(" ", "-")]
        out[part] = made
    return out


def data(judged: str) -> dict[str, Any]:
    """A recipe's data, each topic a source by its name, judged on the topics of a part."""

    def sources(part: str) -> list[dict[str, str]]:
        return [{"path": path, "name": topic} for topic, path in files()[part].items()]

    return {"train": sources("seen"), "eval": sources(judged), "labels": ["no", "yes"], "max_length": 64}
