"""LN tuning: of the whole model only the norms' scales and shifts train (Zhao et al. 2023, arXiv:2312.11420).

    y = gamma n(x) + beta:  gamma [d] and beta [d] train, where n divides by the standard deviation or the root mean
    square; beta only where the norm has one                                            a new head trains whole

Gradients and optimizer state exist for these alone (0.004 % of Llama-2-7B), and they are all that a saved change
holds: PEFT's adapter of type LN_TUNING, where nothing else trains. Norms of queries and keys count, and so do batch
norms, whose running statistics stay the base's. Deltas beside it train along.

Default: every norm of the model, the last one included; rate 2e-3 (ours, as for other vectors; the paper's was not
read).
Raises MethodError where nothing that is named is a norm.
Differs from the paper in: its best variant trains the connector of pictures, embeddings and head along; this is its
plain one, which is also PEFT's `LNTuningConfig` (PEFT's own lists leave some norms out: Qwen's first of each block).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.sites import Site, Structure


class LNTuning(Method):
    """Train norms alone."""

    target_modules: str | tuple[str, ...] = Field(
        "all", description="which norms: all, or module names or endings of them", examples=[["input_layernorm"]]
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}

    def setup(self, run: Setup) -> State:
        self._norms(run.structure)
        return State()

    def choose(self, candidates: Candidates) -> Choice:
        sites = self._norms(candidates.structure)
        own = [n for s in sites for n in (s.weight_name, f"{s.name}.bias") if n in candidates.base]
        return Choice((*own, *candidates.adapted.trainable_new(), *candidates.deltas))

    def _norms(self, structure: Structure) -> list[Site]:
        sites = structure.sites if self.target_modules == "all" else structure.match(self.target_modules)
        norms = [s for s in sites if s.kind == "norm"]
        others = [s for s in sites if s.kind != "norm"] if self.target_modules != "all" else []
        if not norms or others:
            what = f"'{others[0].name}' is a {others[0].kind} layer and no norm" if others else "there is no norm here"
            raise MethodError(what, where="ln-tuning.target_modules", remedy="name norms, or write all")
        return norms
