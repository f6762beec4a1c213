"""With two fifths of the tokens, the three remedies learn a domain better than one pass over all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ONE_PASS, REMEDIES, REPLAYED = 120_000, 48_000, 0.3
SUBSET = [{"perplexity": {"high": 0.5}}, {"random": {"keep": 0.3}}]
"""The half that the base finds likeliest, and three tenths of it: read three to four times in its budget."""

CLAIM = Claim(
    paper="stability-gap",
    says="With 40 % of the tokens of one pass over a domain, several passes over a subset of its likeliest texts, with "
    "general text among them, reach a lower loss on the domain.",
    task="domain",
    method=Arm(name="remedies", methods=["full"]),
    baselines=[Arm(name="one-pass", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    extra={"train": {"eval_steps": 10}, "measurement": {"along": ["general"]}},
    differs="German law instead of medicine, its loss instead of accuracy on questions, a base of 3.4M parameters; "
    "texts are chosen by the base's own perplexity (there: by a model of reference texts); replayed text is of two of "
    "the base's sources",
)


def trials(run: ClaimRun, seed: int) -> dict[str, Any]:
    """Both arms' records: the remedies, and one pass over everything that is there."""
    chosen = {"select": SUBSET, "replay": {rows.domain_replay()["replay"]: REPLAYED}}
    return {
        "remedies": run.trial("remedies", seed, data=chosen, budget={"tokens": REMEDIES}),
        "one-pass": run.trial("one-pass", seed, budget={"tokens": ONE_PASS}),
    }


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the domain's other sentences, nats a token."""
    return {name: record.tuned.target for name, record in trials(run, seed).items()}
