"""Texts that the base finds easy before those that it finds hard teach a domain better than a random order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TOKENS = 60_000

CLAIM = Claim(
    paper="llama-3-syne",
    says="Going on with the half of a domain that the base finds likelier and then with the other one gives a lower "
    "loss on the domain than as many tokens of both in random order.",
    task="domain",
    method=Arm(name="easy-first", methods=["full"]),
    baselines=[Arm(name="random", methods=["full"]), Arm(name="hard-first", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="the order by perplexity alone, in two halves, of German law and a base of 3.4M parameters; mixtures by "
    "topic and synthetic exercises are not tested; each half is a stage whose rate warms up and falls by itself",
)


def half(name: str, low: float, high: float) -> dict[str, Any]:
    """A stage on the rows between two quantiles of the base's perplexity."""
    band = {"perplexity": {"low": low, "high": high, "model": "before"}}
    return {"name": name, "data": {"select": [band]}, "budget": {"tokens": TOKENS // 2}}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the domain's other sentences, nats a token."""
    easy, hard = ("first", 0.0, 0.5), ("second", 0.5, 1.0)
    both: list[dict[str, Any]] = [{"name": n, "budget": {"tokens": TOKENS // 2}} for n in ("first", "second")]
    ways = {
        "easy-first": [half(*easy), half(*hard)],
        "random": both,
        "hard-first": [half("first", 0.5, 1.0), half("second", 0.0, 0.5)],
    }
    models = {"before": {"name": "nano"}}
    return {a: float(run.trial(a, seed, models=models, stages=s).tuned.target) for a, s in ways.items()}
