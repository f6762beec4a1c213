"""A pre-trained translator that learns many directions at once errs less than one a direction, and than a fresh one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _chosen
from tunewright.claims.papers import _encoder_decoders as models
from tunewright.claims.papers import _verses as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

DIRECTIONS = (("eus-1571", "glv"), ("chr", "eus-1571"), ("cop", "glv"))
EACH, ROWS = 10_000, 150
"""Tokens of each direction, and its pairs."""
RATES = (1e-3, 3e-3)

CLAIM = Claim(
    paper="mbart50",
    says="A BART that has read four languages and learns three directions of translation at once has a lower loss of "
    "the translations, by 0.02 nats a token or more, than as many such models that learn one direction each, and than "
    "a fresh one that learns all directions, for as many tokens of each direction.",
    task="translation",
    method=Arm(name="multilingual", methods=["full"], uses=["text-infilling"]),
    baselines=[
        Arm(name="bilingual", methods=["full"], uses=["text-infilling"]),
        Arm(name="multilingual-from-nothing", methods=["full"]),
    ],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a BART of 0.3M parameters, four languages, three directions and 150 verses each, for fifty and up to "
    "millions of pairs; losses instead of BLEU; each arm has two rates to choose from on other verses; directions come "
    "equally often, so that nothing is sampled by a temperature",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of other verses' translations, nats a token, the mean over the directions' rows."""
    every = (*lab.OLD, *lab.NEW)
    read = models.reading("four", lab.texts(every), 2 * lab.READ, "text-infilling")
    fresh = lab.fresh(seed)
    pretrained = models.folder(run, models.recipe(run, "multilingual", seed, fresh, [read], judged(DIRECTIONS)))
    return {
        "multilingual": loss(run, "multilingual", seed, pretrained, DIRECTIONS),
        "bilingual": sum(loss(run, "bilingual", seed, pretrained, [d]) for d in DIRECTIONS) / len(DIRECTIONS),
        "multilingual-from-nothing": loss(run, "multilingual-from-nothing", seed, fresh, DIRECTIONS),
    }


def judged(directions: Any) -> list[dict[str, str]]:
    """Rows to choose by and to judge by of each direction, in turn."""
    return _chosen.in_turn(*(lab.pairs(s, g, part, 0, lab.JUDGED) for s, g in directions for part in ("valid", "test")))


def loss(run: ClaimRun, arm: str, seed: int, model: str, directions: Any) -> float:
    """Loss of a model that learns directions together, each counted alike, at the better of two rates."""
    found = rows.shuffled([r for s, g in directions for r in lab.pairs(s, g, "train", 0, ROWS)])
    tokens = EACH * len(directions)
    records = [lab.translating(run, arm, seed, model, found, judged(directions), tokens, rate) for rate in RATES]
    best = min((_chosen.means(r, 2 * len(directions)) for r in records), key=lambda each: sum(each[::2]))
    return sum(best[1::2]) / len(directions)
