"""Text of the language first and a few pairs then translate better than the pairs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

LANGUAGES, PAIRS = 24_000, 12_000

CLAIM = Claim(
    paper="alma",
    says=(
        "Monolingual text first, some English in it, and then few good pairs translate better than the pairs "
        "alone, for as many tokens or as long."
    ),
    task="translation",
    method=Arm(name="two-stage", methods=["full"]),
    baselines=[Arm(name="pairs", methods=["full"]), Arm(name="pairs-as-long", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    strengths=(1.0,),
    real={"seeds": 5, "rates": (3e-5, 1e-4, 3e-4)},
    differs="loss of the reference translations instead of BLEU: a base of this size writes no translation; one new "
    "language, of another script, "
    "between the base's English; every stage has the rate that is best for the pairs; the tokens are a millionth of "
    "the paper's",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the translations after both stages, after the pairs alone, and after the pairs for as many tokens in
    all.
    """
    text, pairs = rows.translation()["text"], {"tokens": PAIRS}
    replay = rows.domain_replay()["replay"]
    stages: list[dict[str, Any]] = [
        {
            "name": "languages",
            "data": {"train": [{"path": text}], "replay": {replay: 0.2}},
            "methods": ["full"],
            "budget": {"tokens": LANGUAGES},
        },
        {"name": "translation", "methods": ["full"], "budget": pairs},
    ]
    records = {
        "two-stage": run.trial("two-stage", seed, stages=stages),
        "pairs": run.trial("pairs", seed, budget=pairs),
        "pairs-as-long": run.trial("pairs-as-long", seed, budget={"tokens": LANGUAGES + PAIRS}),
    }
    return {name: record.tuned.target for name, record in records.items()}
