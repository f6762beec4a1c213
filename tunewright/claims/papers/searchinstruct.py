"""Questions made after a few seeds and answered from documents teach a domain's facts better than the seeds alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.entigraph import FACTS, SYLLABLES
from tunewright.claims.papers.instruction_pre_training import ASKED, asked_of
from tunewright.contract.records import Record
from tunewright.contract.writer import Asked, Prompt, Reply, Writer
from tunewright.data.synthesize.searchinstruct import NO_ANSWER, SearchInstruct

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PEOPLE, SEEDS, TOKENS = 60, 20, 60_000
Row = dict[str, Any]

CLAIM = Claim(
    paper="searchinstruct",
    says=(
        "Tuned on questions written after twenty seeds and answered from the documents found for them, a model gives "
        "the answers to a domain's other questions a lower loss than tuned on the seeds for as many tokens, and than "
        "tuned on the documents."
    ),
    task="domain",
    method=Arm(name="made", methods=["full"], uses=["searchinstruct"]),
    baselines=[Arm(name="seeds", methods=["full"]), Arm(name="documents", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="documents of three facts on 60 made-up people, and a writer by rule, which asks for one of them and reads "
    "the answer off the documents that it is shown; no web search; loss in nats a token of the answer",
)


def names(seed: int) -> list[str]:
    """The people."""
    rng = random.Random(f"{seed}/names")
    return [" ".join("".join(rng.choices(SYLLABLES, k=3)).capitalize() for _ in range(2)) for _ in range(PEOPLE)]


def documents(seed: int, version: str = "first") -> list[str]:
    """A document of three facts on each of the people; other facts in another version."""
    rng, found = random.Random(f"{seed}/{version}"), list[str]()
    for name in names(seed):
        others = ["".join(rng.choices(SYLLABLES, k=2)).capitalize() for _ in FACTS]
        found.append(" ".join(fact.format(name, other) for fact, other in zip(FACTS, others, strict=True)))
    return found


class ByRule(Writer):
    """Asks for a fact of one of the people of `seed`; answers with what a document that it is shown says."""

    people: Sequence[str] = ()

    def identity(self) -> dict[str, Any]:
        return {"writes": "by rule"}

    def shown(self, prompt: Prompt) -> Any:
        return prompt

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        return [[Reply(self._say(str(a.prompt), random.Random(d)), True, 1) for d in a.draws] for a in asked], 0

    def _say(self, prompt: str, rng: random.Random) -> str:
        if "that people ask" in prompt:
            some = [rng.choice(ASKED).format(rng.choice(list(self.people))) for _ in range(10)]
            return json.dumps({"questions": some})
        told, _, question = prompt.rpartition("Question: ")
        return dict(pair for part in told.split("\n\n") for pair in asked_of(part)).get(question, NO_ANSWER)


def made(seed: int, texts: Sequence[str]) -> list[Row]:
    """The rows that SearchInstruct makes of the seeds and documents."""
    seeds = [q for text in texts[:SEEDS] for q, _ in asked_of(text)[:1]]
    records = [Record({"prompt": q}, id=f"s{i}") for i, q in enumerate(seeds)]
    records += [Record({"text": t}, id=f"d{i}") for i, t in enumerate(texts)]
    writer = ByRule("start", seed=seed)
    writer.people = names(seed)
    method = SearchInstruct(iterations=60, seeds=True)
    found = method.synthesize(records, {"start": writer}, random.Random(seed))
    return [pair(str(m.values["prompt"]), str(m.values["completion"])) for m in found if not m.thrown]


def pair(question: str, answer: str) -> Row:
    """A question and its answer as a row."""
    return {"prompt": f"{question}\n", "completion": answer}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers to all questions but the seeds, after each set of rows."""
    texts = documents(seed)
    every = [asked_of(text) for text in texts]
    parts = {
        "made": made(seed, texts),
        "seeds": [pair(*some[0]) for some in every[:SEEDS]],
        "documents": [{"text": t} for t in texts],
        "eval": [pair(*one) for i, some in enumerate(every) for k, one in enumerate(some) if k or i >= SEEDS],
    }
    files = rows.written(f"searched-{seed}", parts)
    found = {}
    for arm in ("made", "seeds", "documents"):
        data = {
            "train": [{"path": files[arm], "name": "train"}],
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        trial = run.trial(arm, seed, data=data, budget={"tokens": TOKENS}, measurement={"metric": "loss"})
        found[arm] = float(trial.tuned.target)
    return found
