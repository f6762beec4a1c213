"""What another package's metric gave, checked where it comes back, so that no error comes further on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch

from tunewright.contract.metric import Metric
from tunewright.contract.returned import number, told
from tunewright.errors import MethodError


def _real(value: Any) -> bool:
    """A number, which may be NaN: a figure of rows drawn anew need not be defined."""
    return number(value) or (isinstance(value, Real) and value != value)


def checked(metric: Metric, name: str, where: str) -> Metric:
    """The metric with each of its functions refusing (MethodError) what the figure of a row or of all cannot be."""

    def guarded(what: str, good: Callable[[Any], bool], gives: str) -> Any:
        function = getattr(metric, what)
        if function is None:
            return None

        def call(*given: Any) -> Any:
            value = function(*given)
            if not good(value):
                raise MethodError(
                    f"`{what}` of the metric '{name}' gave {told(value)}", where=where, remedy=f"return {gives}"
                )
            return value

        return call

    return replace(
        metric,
        compare=guarded("compare", number, "a finite number"),
        figure=guarded("figure", _real, "a number from 0 to 1"),
        parts=guarded(
            "parts",
            lambda v: isinstance(v, Mapping) and all(isinstance(n, str) and _real(x) for n, x in v.items()),
            "a dict of numbers by the part's name",
        ),
        misses=guarded("misses", lambda v: isinstance(v, bool), "True or False"),
        per_label=guarded("per_label", lambda v: isinstance(v, torch.Tensor) and v.dim() == 1, "a tensor [S]"),
    )
