"""An encoder that reads on in a domain knows its words better than one that reads the domain from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import pretraining
from tunewright.claims.papers import _reading_on as reading
from tunewright.loading.builtin import SHIPPED

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS = 60_000

CLAIM = Claim(
    paper="german-clinical-language-models",
    says="Masked words of a domain are foreseen at least as well by a general encoder that goes on with the domain as "
    "by one that is trained on the domain from nothing, for as many tokens of it.",
    task="topics",
    method=Arm(name="continued", methods=["full"]),
    baselines=[Arm(name="from-nothing", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.0,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="German law and an English base of 2.6M parameters; the loss of masked words instead of tasks of medicine; "
    "as many tokens of the domain for both, where the paper's models from nothing saw other and more text",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of masked words in 200 other sentences of law, nats a token."""
    found = reading.other_texts()
    law, held = reading.texts("law", found[200:]), reading.texts("law-held", found[:200])
    fresh = {
        "name": "fresh-claim",
        "config": pretraining.CONFIGS["nano-encoder"],
        "tokenizer": str(SHIPPED / "nano-encoder"),
        "seed": seed,
    }
    out = {}
    for arm, model in (("continued", "nano-encoder"), ("from-nothing", fresh)):
        judged = {"eval": [{"name": "eval", "path": held, "format": "text"}]}
        made = reading.recipe(run, arm, seed, [(law, TOKENS)], model=model, judged=judged)
        out[arm] = float(run.engine.run_one(made, False).tuned.target)
    return out
