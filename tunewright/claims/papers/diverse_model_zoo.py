"""A weak model that leans on a misleading link tells which rows to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.claim_run import recipe_of
from tunewright.claims.merging import finished, folder_of
from tunewright.claims.papers import _marks

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="diverse-model-zoo",
    says=(
        "Rows weighted by a weaker model that leans on a link between features and classes teach a model that does "
        "better where the link is broken."
    ),
    task="digits",
    method=Arm(name="zoo", methods=["full", {"diverse-model-zoo": {"correlated": None, "diverse": None}}]),
    baselines=[Arm(name="plain", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    scales=("nano",),
    differs=(
        "the balancing half alone (no second model to be independent of); the weak model was tuned on the marks "
        "without digits, on a small ViT"
    ),
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on pictures whose mark says nothing, after training where it says the class in 90 %."""
    weak = recipe_of(
        run.task,
        run.claim,
        run.arm("plain"),
        seed,
        run.rates.get("plain"),
        {"data": _marks.data(blank=True), "keep": []},
    )
    models = {"correlated": folder_of(finished(run, weak).folder)}
    data: dict[str, Any] = _marks.data()
    methods = ["full", {"diverse-model-zoo": {"correlated": "correlated", "diverse": None}}]
    zoo = run.trial("zoo", seed, data=data, keep=[], models=models, methods=methods)
    plain = run.trial("plain", seed, data=data, keep=[])
    return {"zoo": zoo.tuned.target, "plain": plain.tuned.target, "base": plain.base.target}
