"""A small model that goes on in a domain knows it better than one that begins with it and reads four times as much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, pretraining, rows
from tunewright.claims.papers import _chosen
from tunewright.loading.builtin import SHIPPED

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS, JUDGED = 10_000, 100
RATES = {"continued": (3e-4, 1e-3), "from-nothing": (1e-3, 3e-3)}

CLAIM = Claim(
    paper="small-lm-cpt",
    says="A small general model that goes on with a domain has a lower loss of it, by 0.1 nats a token or more, than "
    "one of the same shape that is trained on it from nothing with four times the tokens.",
    task="domain",
    method=Arm(name="continued", methods=["full"]),
    baselines=[Arm(name="from-nothing", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters and arguments of debates, in English, instead of 125M, educational text and a "
    "billion tokens; losses instead of MMLU and HellaSwag; the paper has no model from nothing beside its own, but "
    "names it as what going on is to spare; each arm has two rates of its own to choose from",
)


def data() -> dict[str, Any]:
    """Arguments to learn from, and others to choose by and to judge by in turn: each side's are cut by argument."""
    found = rows.shuffled(corpus.rows("ukpconvarg1/arguments.jsonl.gz"))
    learnt, held = (rows.shuffled(rows.sentences([r["text"] for r in some])) for some in (found[200:], found[:200]))
    own = [t for t in held if t not in set(learnt)]
    judged = _chosen.in_turn(own[:JUDGED], own[JUDGED : 2 * JUDGED])
    files = rows.written("arguments", {"train": [{"text": t} for t in learnt], "eval": [{"text": t} for t in judged]})
    return {"max_length": 256, **{n: [{"name": n, "path": p}] for n, p in files.items()}}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of other arguments, nats a token, at the better of two rates; beside it the general model's."""
    fresh = {
        "name": "fresh-claim",
        "config": pretraining.CONFIGS["nano"],
        "tokenizer": str(SHIPPED / "nano"),
        "seed": seed,
    }
    models: dict[str, tuple[Any, int]] = {"continued": ("nano", TOKENS), "from-nothing": (fresh, 4 * TOKENS)}
    found = {
        arm: [
            _chosen.record(run, arm, seed, rate, data=data(), model=model, budget={"tokens": tokens})
            for rate in RATES[arm]
        ]
        for arm, (model, tokens) in models.items()
    }
    before = _chosen.means(found["continued"][0], 2, base=True)[1]
    return {**{arm: _chosen.lowest(records) for arm, records in found.items()}, "general model": before}
