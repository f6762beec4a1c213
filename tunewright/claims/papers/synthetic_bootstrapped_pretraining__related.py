"""A model tuned on pairs of related documents writes what they share; tuned on random pairs it does not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers.entigraph import FACTS, SYLLABLES, TURNED
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.synthesize.related_pairs import RelatedPairs

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PEOPLE, HELD_OUT, TOKENS = 300, 40, 100_000
METHOD = "related-pairs"

CLAIM = Claim(
    paper="synthetic-bootstrapped-pretraining",
    says=(
        "Tuned on pairs of a corpus's nearest documents, a model foresees a new document after one that is related to "
        "it better than one tuned on as many random pairs: it has learnt what related documents share."
    ),
    task="domain",
    method=Arm(name="related", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    strengths=(1.0,),
    rates=(),
    scales=("nano",),
    differs="two documents of three facts on each of 340 made-up people, in other words and another order, of which 40 "
    "people are new; nearest by words; a base of 3.4M parameters; loss in nats a token of the second document",
)


def corpus(seed: int) -> list[tuple[str, str]]:
    """Both documents on each person."""
    rng, found = random.Random(f"{seed}/related"), list[tuple[str, str]]()
    for _ in range(PEOPLE + HELD_OUT):
        first, last, *others = ("".join(rng.choices(SYLLABLES, k=3)).capitalize() for _ in range(2 + len(FACTS)))
        said = [[f.format(f"{first} {last}", o) for f, o in zip(form, others, strict=True)] for form in (FACTS, TURNED)]
        found.append((" ".join(rng.sample(said[0], len(FACTS))), " ".join(rng.sample(said[1], len(FACTS)))))
    return found


def paired(documents: list[str], neighbours: int) -> list[dict[str, Any]]:
    """The rows of each document's nearest ones."""
    records = [Record({"text": d}, id=f"{i}") for i, d in enumerate(documents)]
    made = call(RelatedPairs(neighbours=neighbours, least=0.0), "synthesize", records=records, readers={})
    return [{"prompt": m.values["prompt"], "completion": m.values["completion"]} for m in made if not m.thrown]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the second documents on new people, after the first."""
    both = corpus(seed)
    read = [d for pair in both[:PEOPLE] for d in pair]
    related, rng = paired(read, 1), random.Random(f"{seed}/random")
    second = rng.sample([r["completion"] for r in related], len(related))
    empty = paired([both[0][0], both[0][1]], 1)[0]["prompt"].replace(both[0][0], "{}")
    parts = {
        "related": related,
        "random": [{**r, "completion": other} for r, other in zip(related, second, strict=True)],
        "eval": [{"prompt": empty.format(a), "completion": b} for a, b in both[PEOPLE:]],
    }
    files = rows.written(f"pairs-{seed}", parts)
    found = {}
    for arm in ("related", "random"):
        data = {
            "train": [{"path": files[arm], "name": "train"}],
            "eval": [{"path": files["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        trial = run.trial(arm, seed, data=data, budget={"tokens": TOKENS}, measurement={"metric": "loss"})
        found[arm] = float(trial.tuned.target)
    return found
