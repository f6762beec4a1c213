"""Read with questions and answers behind its documents, a corpus teaches how documents of its kind are asked."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.entigraph import FACTS, SYLLABLES
from tunewright.contract.records import Record
from tunewright.contract.writer import Asked, Continue, Prompt, Reply, Writer
from tunewright.data.synthesize.instruction_pre_training import InstructionPreTraining

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PEOPLE, HELD_OUT, TOKENS = 240, 40, 48_000
ASKED = ("Where was {0} born?", "Who is a friend of {0}?", "For whom does {0} work?")

CLAIM = Claim(
    paper="instruction-pre-training",
    says=(
        "Reading a corpus with pairs of questions and answers behind its documents gives a lower loss of the answers "
        "to questions on new documents of its kind than reading the documents alone for as many tokens."
    ),
    task="domain",
    method=Arm(name="with-pairs", methods=["full"], uses=["instruction-pre-training"]),
    baselines=[Arm(name="raw", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.05,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="documents of three facts on made-up people, and a synthesizer by rule, which asks for each of them; one "
    "document a text, one template; loss in nats a token of the answer, the new document standing before the question",
)


class ByRule(Writer):
    """Asks for each fact of the last document that it is shown."""

    def identity(self) -> dict[str, Any]:
        return {"writes": "by rule"}

    def shown(self, prompt: Prompt) -> Any:
        return prompt.text if isinstance(prompt, Continue) else prompt

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        return [[_reply(str(self.shown(a.prompt))) for _ in a.draws] for a in asked], 0


def _reply(prompt: str) -> Reply:
    document = prompt.rpartition("<CON>")[2].partition("</CON>")[0].strip()
    pairs = [f"<QUE> {q} <ANS> {a} </END>" for q, a in asked_of(document)]
    return Reply("\n\n".join(pairs), True, len(pairs))


def asked_of(document: str) -> list[tuple[str, str]]:
    """The question and the answer of each fact that a document tells."""
    found = []
    for fact, question in zip(FACTS, ASKED, strict=True):
        said = re.search(re.escape(fact).replace(r"\{0\}", r"(\w+ \w+)").replace(r"\{1\}", r"(\w+)"), document)
        if said is not None:
            found.append((question.format(said[1]), said[2]))
    return found


def corpus(seed: int) -> list[str]:
    """Documents of three facts each, in an order of their own."""
    rng = random.Random(f"{seed}/documents")
    documents = []
    for _ in range(PEOPLE + HELD_OUT):
        first, last, *others = ("".join(rng.choices(SYLLABLES, k=2)).capitalize() for _ in range(2 + len(FACTS)))
        facts = [fact.format(f"{first} {last}", other) for fact, other in zip(FACTS, others, strict=True)]
        documents.append(" ".join(rng.sample(facts, len(facts))))
    return documents


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers on new documents after both ways of reading."""
    documents = corpus(seed)
    read, new = documents[:PEOPLE], documents[PEOPLE:]
    records = [Record({"text": d}, id=f"{i}") for i, d in enumerate(read)]
    method = InstructionPreTraining(form="tags", shots=1, templates=["Question: {question}\nAnswer: {answer}"])
    made = method.synthesize(records, {"start": ByRule("start", seed=seed)}, random.Random(seed))
    parts = {
        "with-pairs": [{"text": m.values["text"]} for m in made],
        "raw": [{"text": d} for d in read],
        "eval": [
            {"prompt": f"{d}\n\nQuestion: {q}\nAnswer:", "completion": f" {a}"} for d in new for q, a in asked_of(d)
        ],
    }
    files = rows.written(f"asked-{seed}", parts)
    found = {}
    for arm in ("with-pairs", "raw"):
        data = {
            "train": [{"path": files[arm], "name": "train"}],
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        found[arm] = run.trial(arm, seed, data=data, budget={"tokens": TOKENS}).tuned.target
    return found
