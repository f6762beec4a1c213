"""Finished adapters behind a gate in every layer do better on mixed prompts than their average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _adapters as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

TRAINED: dict[str, Any] = {"train": {"learning_rate": 3e-3, "batch_tokens": 128}}
"""Of gates: the paper has 15,000 steps at 5e-4."""
CLAIM = Claim(
    paper="meteora",
    says="Where two questions of different kinds are answered one after the other, finished adapters behind gates have "
    "a loss that is lower by at least 0.1 nats a token than all of them at an equal share.",
    task="induction",
    method=Arm(name="meteora", methods=["meteora"], extra=TRAINED),
    baselines=[Arm(name="average", methods=[{"lora": {"rank": 8}}], uses=["lora"])],
    metric="measured",
    direction="lower",
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra=lab.LOSS,
    scales=("nano",),
    differs="three kinds of short instructions, two in a conversation, for a model of 3.4M parameters, in the place of "
    "28 tasks, ten in a prompt, for models of 8B and 13B; losses of right answers instead of answers that are written; "
    "gates learn from rows of one kind each, as there",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of the answers in mixed conversations, nats a token; beside it the base's and each adapter's alone."""
    from tunewright.measure.target import evaluate, summary
    from tunewright.methods.adapters.meteora import read_adapter
    from tunewright.models import deltas as forms
    from tunewright.runs.assemble import assemble

    made = lab.adapters(run, "average", seed)
    routed = lab.gated(run, seed, made)
    session = assemble(run.cut(run.recipe("average", seed, data=lab.together(lab.mixed()))))
    adapted: Any = session.adapted
    parts = {k: read_adapter(adapted, str(r.folder), k) for k, r in made.items()}

    def loss(shares: dict[str, float]) -> float:
        for kind, share in shares.items():
            for name, (A, B) in parts[kind].pairs.items():
                delta = forms.LowRank(A.float(), B.float(), parts[kind].scales[name] * share)
                forms.attach(adapted.structure.site(name), kind, delta)
        with adapted.at_strength(1.0) as model:
            told = evaluate(model, session.tokenizer, session.task, session.eval.rows, "loss")  # type: ignore[union-attr]
        adapted.forget_changes()
        return summary(told, "loss").value

    return {
        "meteora": float(routed.tuned.target),
        "average": loss(dict.fromkeys(lab.KINDS, 1 / len(lab.KINDS))),
        "base": float(routed.base.target),
        **{f"{kind} alone": loss({kind: 1.0}) for kind in lab.KINDS},
    }
