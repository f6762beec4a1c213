"""A model that goes on with German law and English that it knows: an agent's shares against fixed ones."""

from __future__ import annotations

import gzip
import math
from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD = "data-mixing-agent"
NEW, OLD = "law", ("genres", "wiki", "plays")
DOCUMENTS = {"law": "german-laws", "genres": "masc-genres"}
PLAIN = {"wiki": "wikitext2", "plays": "tinyshakespeare"}
LONGEST, TRAIN, HELD, JUDGED = 400, 400, 8, 24
"""Letters of a text, and texts of each domain that are learnt, looked at while training, and measured on."""
SHARES = {"tenth": 0.1, "quarter": 0.25, "half": 0.5}

CLAIM = Claim(
    paper=METHOD,
    says="Going on with German law and three kinds of English that it knows, a model whose shares an agent gives "
    "(fitted to simulated stages: it has met neither the model nor the domains) ends with lower losses over the "
    "base's (geometric means, both fields alike) than with a tenth, a quarter or a half of English.",
    task="domain",
    method=Arm(name="agent", methods=["full", {METHOD: {"source_field": [*OLD], "rows": 4}}]),
    baselines=[Arm(name=name, methods=["full"]) for name in SHARES],
    metric="measured",
    direction="lower",
    smallest=0.005,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    budget={"tokens": 12_000},
    extra={
        "data": {"train": None, "eval": None},  # none of the lab task's own rows, which named ones would join
        "evaluation": {"rows": 16, "drift_sequences": 4, "drift_tokens": 8},
    },
    differs="a model of 3.4M parameters and 12,000 tokens instead of 3B and billions; losses instead of benchmarks; "
    "the agent is fitted to simulated domains and not to runs of a small model, as in the paper's test of unseen "
    "fields and models; rates are not tuned, and each arm has the same",
)


def texts(domain: str, part: str) -> list[str]:
    """Pieces of documents; of the encyclopedia there are two parts, of which the second is held and judged by turns."""
    if domain in DOCUMENTS:
        found = [str(r["text"]) for r in corpus.rows(f"{DOCUMENTS[domain]}/{part}.jsonl.gz")]
    else:
        name = {"train": "valid", "valid": "test"}.get(part, part) if domain == "wiki" else part
        with gzip.open(corpus.data_folder() / PLAIN[domain] / f"{name}.txt.gz", "rt", encoding="utf-8") as f:
            found = [f.read()]
    pieces = rows.shuffled([t[i : i + LONGEST] for t in found for i in range(0, len(t) - LONGEST, LONGEST)])
    return pieces[{"valid": 0, "test": 1}[part] :: 2] if domain == "wiki" and part != "train" else pieces


def domains() -> dict[str, dict[str, str]]:
    """Files of each domain: train, held, judged."""
    parts = {"train": TRAIN, "valid": HELD, "test": JUDGED}
    called = {"train": "train", "valid": "held", "test": "judged"}
    return {
        d: rows.written(f"mixing-{d}", {called[p]: [{"text": t} for t in texts(d, p)[:n]] for p, n in parts.items()})
        for d in (NEW, *OLD)
    }


def overlay(source_share: float) -> dict[str, Any]:
    """What of a recipe is the same for all arms but for the shares that it begins with."""
    files = domains()
    shares = {NEW: 1 - source_share, **dict.fromkeys(OLD, source_share / len(OLD))}
    source = {"format": "text"}
    return {
        "data": {
            "train": [{"path": files[d]["train"], "name": d, "weight": w, **source} for d, w in shares.items()],
            "validation": [{"path": files[d]["held"], "name": d, **source} for d in shares],
            "eval": [{"path": files[NEW]["judged"], "name": "judged", **source}],
        },
        "keep": [{"data": files[d]["judged"], "name": d} for d in shares],
    }


def balance(record: Any) -> float:
    """Geometric mean of the tuned model's losses over the base's, both fields alike."""
    moved = {d: math.log(record.tuned.kept[d] / record.base.kept[d]) for d in (NEW, *OLD)}
    return math.exp(moved[NEW] / 2 + sum(moved[d] for d in OLD) / (2 * len(OLD)))


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """The balance of each arm at the end."""
    return {a.name: balance(run.trial(a.name, seed, **overlay(SHARES.get(a.name, 0.5)))) for a in run.claim.arms}
