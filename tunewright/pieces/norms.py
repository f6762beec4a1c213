"""Scale and shift of a model's norms, by name."""

from __future__ import annotations

from tunewright.contract.method import Candidates
from tunewright.errors import MethodError


def norm_parameters(candidates: Candidates) -> list[str]:
    """Names of the weights and biases of batch norms, layer norms and RMS norms.

    MethodError for a model that has none.
    """
    names = [
        f"{s.name}.{part}"
        for s in candidates.structure.sites
        if s.kind == "norm"
        for part in ("weight", "bias")
        if f"{s.name}.{part}" in candidates.base
    ]
    if not names:
        raise MethodError(
            "the model has no norm with a scale that could move",
            where="test_time",
            remedy="use cotta, which moves all weights, or a model with batch norm, layer norm or RMS norm",
        )
    return names
