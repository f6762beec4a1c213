"""Finished adapters behind gates answer each kind of question about as well as the adapter of that kind alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _adapters as lab
from tunewright.claims.papers.meteora import TRAINED

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="meteora",
    says="The loss on each kind's own questions, which nobody names, is at most 0.05 nats a token above that of the "
    "adapter that was trained on this kind.",
    task="induction",
    method=Arm(name="meteora", methods=["meteora"], extra=TRAINED),
    baselines=[Arm(name="alone", methods=[{"lora": {"rank": 8}}])],
    metric="measured",
    direction="lower",
    smallest=-0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=lab.LOSS,
    scales=("nano",),
    differs="three kinds of short instructions for a model of 3.4M parameters in the place of 28 tasks for models of "
    "8B and 13B; losses of right answers instead of each task's own metric",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over kinds of the loss of their answers, nats a token; beside it the base's."""
    from tunewright.finished.finished import open_run
    from tunewright.measure.target import evaluate, summary
    from tunewright.runs.assemble import assemble

    made = lab.adapters(run, "alone", seed)
    opened = open_run(lab.gated(run, seed, made).folder)
    losses = []
    for kind in made:
        session: Any = assemble(run.cut(run.recipe("alone", seed, data=lab.own(kind))))
        with opened.adapted.at_strength(1.0) as model:
            told = evaluate(model, opened.tokenizer, session.task, session.eval.rows, "loss")  # type: ignore[arg-type]
        losses.append(summary(told, "loss").value)

    def mean(figures: list[float]) -> float:
        return sum(figures) / len(figures)

    return {
        "meteora": mean(losses),
        "alone": mean([float(r.tuned.target) for r in made.values()]),
        "base": mean([float(r.base.target) for r in made.values()]),
    }
