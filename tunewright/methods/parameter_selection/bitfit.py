"""BitFit: of the whole model only the bias vectors train (Ben Zaken et al. 2021, arXiv:2106.10199).

    y = W x + b:  b [out] trains, W [out, in] stays                  likewise b of every norm, and a new head whole

Gradients and optimizer state exist for the biases alone: about 0.1 % of an encoder, which is all that a saved change
holds. `target_modules` narrows them down: [query, intermediate.dense] is the half of them that the paper finds to do as
well as all. Models that have no biases (most causal ones since Llama) are refused unless `new_biases` names linear
layers to give one, from zero; `export` says whether an architecture's folder can hold it. Deltas beside it train along.

Default: every bias; rate 1e-3 (the authors' README, BERT).
Raises MethodError where no bias would train.
Differs from the paper in: `new_biases` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.sites import Site


def biases(adapted: Adapted, target_modules: str | tuple[str, ...]) -> list[str]:
    """Names of the base's biases ("all", or those of the modules that are named)."""
    found = [n for n in adapted.base_parameters() if n.rpartition(".")[2].endswith("bias")]
    if target_modules == "all":
        return found
    owners = {s.name for s in adapted.structure.match(target_modules)}
    return [n for n in found if n.rpartition(".")[0] in owners]


class BitFit(Method):
    """Train biases alone."""

    target_modules: str | tuple[str, ...] = Field(
        "all", description="whose biases train: all, or module names or endings of them", examples=[["q_proj"]]
    )
    new_biases: str | tuple[str, ...] | None = Field(
        None,
        description="linear layers that get a bias, from zero, where they have none: all-linear, or names; none: none",
        examples=[["q_proj", "v_proj"]],
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    divides: ClassVar[bool] = True
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    conformance: ClassVar[dict[str, object]] = {"new_biases": "all-linear"}

    def setup(self, run: Setup) -> State:
        if not biases(run.adapted, self.target_modules) and not self._without(run.adapted):
            raise MethodError(
                "no module that is named has a bias",
                where="bitfit",
                remedy="write new_biases: all-linear to give the linear layers one",
            )
        return State()

    def choose(self, candidates: Candidates) -> Choice:
        adapted = candidates.adapted
        for site in self._without(adapted):
            adapted.add_bias(site)
        return Choice((*biases(adapted, self.target_modules), *adapted.trainable_new(), *candidates.deltas))

    def _without(self, adapted: Adapted) -> list[Site]:
        """The layers that `new_biases` and `target_modules` name and that have no bias."""
        if self.new_biases is None:
            return []
        try:
            matched = adapted.structure.match(self.new_biases)
        except MethodError as error:
            what = error.what.replace("target_modules", "new_biases")
            raise MethodError(what, where="new_biases", remedy="write all-linear, or names of linear layers") from error
        named = [s for s in matched if s.kind == "linear" and not s.unfit]
        if self.target_modules != "all":
            kept = {s.name for s in adapted.structure.match(self.target_modules)}
            named = [s for s in named if s.name in kept]
        return [s for s in named if getattr(s.module, "bias", None) is None]
