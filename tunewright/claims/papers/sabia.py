"""Going on in one language alone learns it better than going on in several, for as many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

OTHERS = ("de", "fi", "fr", "sv")

CLAIM = Claim(
    paper="sabia",
    says="A model of mostly English that goes on in Portuguese alone has a lower loss on Portuguese than one that goes "
    "on in five languages, for as many tokens.",
    task="domain",
    method=Arm(name="portuguese", methods=["full"]),
    baselines=[Arm(name="five-languages", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the first book of Moses and a base of 3.4M parameters; losses instead of fourteen sets of questions; "
    "native and translated sets are not told apart",
)


def lines(part: str, *languages: str) -> list[str]:
    """Lines of a part of the data set in some languages."""
    found = corpus.rows(f"genesis-multilingual/{part}.jsonl.gz")
    return [str(r["text"]) for r in found if r["lang"].split("-")[0] in languages]


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of other lines in Portuguese, nats a token."""
    own = rows.shuffled(lines("train", "pt"))
    every = [*own, *(t for other in OTHERS for t in rows.shuffled(lines("train", other))[: len(own)])]
    texts = {"portuguese": own, "five-languages": rows.shuffled(every)}
    test = rows.written("sabia-test", {"eval": [{"text": t} for t in lines("test", "pt")]})["eval"]
    out = {}
    for arm, found in texts.items():
        train = rows.written(f"sabia-{arm}", {"train": [{"text": t} for t in found]})["train"]
        data = {"train": [{"name": "train", "path": train}], "eval": [{"name": "eval", "path": test}]}
        out[arm] = float(run.trial(arm, seed, data=data).tuned.target)
    return out
