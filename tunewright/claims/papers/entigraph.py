"""Texts on how a corpus's entities relate teach its facts from more sides than reading the corpus again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.contract.records import Record
from tunewright.contract.writer import Asked, Prompt, Reply, Writer
from tunewright.data.synthesize.entigraph import EntiGraph

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PEOPLE = 24
SYLLABLES = ("ba", "den", "fi", "gor", "lu", "mar", "ne", "pol", "ri", "sta", "tu", "vek", "wo", "zan")
FACTS = ("{0} was born in {1}.", "{0} is a friend of {1}.", "{0} works for {1}.")
TURNED = ("{1} is where {0} was born.", "{1} has a friend, {0}.", "{1} gives work to {0}.")
ASKED = ("The one who was born in {1} is", "The one who has the friend {1} is", "The one who works for {1} is")

CLAIM = Claim(
    paper="entigraph",
    says=(
        "Texts that relate pairs of a small corpus's entities teach its facts better than reading the corpus again "
        "for as many tokens: answers are likelier when facts are asked for from the side that the corpus does not "
        "tell. (What a large model's texts give, and retrieval beside them, are not tested.)"
    ),
    task="domain",
    method=Arm(name="related", methods=["full"], uses=["entigraph"]),
    baselines=[Arm(name="documents", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="24 made-up people with three facts each, and a writer by rule, which says what the document says of two "
    "entities from either side; loss in nats a token of the name that is asked for; no general text is mixed in",
)


class ByRule(Writer):
    """Names the entities of the document in the question; of two of them, says its sentence on them, or that turned
    round.
    """

    def identity(self) -> dict[str, Any]:
        return {"writes": "by rule"}

    def shown(self, prompt: Prompt) -> Any:
        return prompt

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        return [[_reply(str(a.prompt), random.Random(d)) for d in a.draws] for a in asked], 0


def _reply(prompt: str, rng: random.Random) -> Reply:
    document = prompt.split("\n\n")[1]
    told = [(s, _entities(s)) for s in document.split(". ")]
    if "List the entities" in prompt:
        return Reply("\n".join(dict.fromkeys(name for _, names in told for name in names)), True, 1)
    named = {line[2:] for line in prompt.split("\n") if line.startswith("- ")}
    said = [(s, names) for s, names in told if set(names) == named]
    text = " ".join(_either(s, names, rng) for s, names in said)
    return Reply(text, True, len(text.split()))


def _entities(sentence: str) -> list[str]:
    """Its two names: runs of words that begin with a capital."""
    words, found = sentence.rstrip(".").split(), list[str]()
    for before, word in zip(["", *words], words, strict=False):
        if word[0].isupper():
            if before and before[0].isupper():
                found[-1] += f" {word}"
            else:
                found.append(word)
    return found


def _either(sentence: str, names: Sequence[str], rng: random.Random) -> str:
    plain = f"{sentence.rstrip('.')}."
    form = next(i for i, fact in enumerate(FACTS) if fact.format(*names) == plain)
    return rng.choice((FACTS, TURNED))[form].format(*names)


def corpus(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """(documents of three facts each, (question, name) of each fact from its other side)."""
    rng = random.Random(f"{seed}/people")
    names: list[str] = []
    while len(names) < 4 * PEOPLE:
        one = "".join(rng.sample(SYLLABLES, 2)).capitalize()
        names += [one] if one not in names else []
    people = [f"{a} {b}" for a, b in zip(names[:PEOPLE], names[PEOPLE : 2 * PEOPLE], strict=True)]
    towns, firms = names[2 * PEOPLE : 3 * PEOPLE], names[3 * PEOPLE :]
    documents, asked = [], []
    for i, person in enumerate(people):
        others = (towns[i], people[(i + 1) % PEOPLE], firms[i])
        documents.append(" ".join(fact.format(person, o) for fact, o in zip(FACTS, others, strict=True)))
        asked += [(ask.format(person, o), person) for ask, o in zip(ASKED, others, strict=True)]
    return documents, asked


def related(documents: Sequence[str], seed: int) -> list[str]:
    """What EntiGraph makes of the documents with a writer by rule, all pairs, eight times over with other draws."""
    texts: list[str] = []
    records = [Record({"text": d}, id=f"{i}") for i, d in enumerate(documents)]
    for times in range(8):
        writer = ByRule("start", seed=seed, stage=f"{times}")
        made = EntiGraph(most_pairs=None, most_triples=0).synthesize(records, {"start": writer}, random.Random(seed))
        texts += [str(m.values["text"]) for m in made if not m.thrown]
    return texts


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the names that are asked for, after the texts and after the documents, for as many tokens."""
    documents, asked = corpus(seed)
    parts = {
        "documents": [{"text": d} for d in documents],
        "related": [{"text": t} for t in related(documents, seed)],
        "eval": [{"prompt": question, "completion": f" {name}"} for question, name in asked],
    }
    files = rows.written(f"related-{seed}", parts)
    found = {}
    for arm in ("related", "documents"):
        data = {
            "train": [{"path": files[arm], "name": "train"}],  # of another name it would join the task's own rows
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        found[arm] = run.trial(arm, seed, data=data).tuned.target
    return found
