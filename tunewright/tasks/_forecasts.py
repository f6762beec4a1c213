"""Forecasts and what is right as texts, which metrics compare and a reader can read: JSON, a list of values a channel.

- a forecast: {"OT": [30.5, 31.2]}; of a model that gives quantiles {"OT": {"0.1": [...], ..., "0.9": [...]}};
- what is right: {"OT": {"right": [30.1, null], "mase": 0.53, "std": 8.6}}: null where no value is known, and for a
  scale that there is none of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.tasks._forecasters import QUANTILES

DIGITS = 7
"""Digits that are kept of what is right: about those of float32."""
PARTS = 4
"""Decimals of a standard deviation that are kept of a forecast."""
MIDDLE = "0.5"


def forecast(names: Sequence[str], values: NDArray[Any], std: NDArray[Any]) -> str:
    """The text of a forecast [P, K] of channels with standard deviations [K]."""
    return _text({name: _rounded(values[:, k], std[k]) for k, name in enumerate(names)})


def spread(names: Sequence[str], values: NDArray[Any], std: NDArray[Any]) -> str:
    """The text of quantiles [P, K, Q]."""
    levels = [f"{q:g}" for q in QUANTILES]
    return _text(
        {name: {q: _rounded(values[:, k, i], std[k]) for i, q in enumerate(levels)} for k, name in enumerate(names)}
    )


def _rounded(values: NDArray[Any], std: float) -> list[float | None]:
    """Values to PARTS of their standard deviation: what lies below hangs on how rows lie in batches."""
    decimals = PARTS - math.floor(math.log10(std))
    return [round(v, decimals) if math.isfinite(v) else None for v in values.tolist()]


def right(names: Sequence[str], future: NDArray[Any], mase: NDArray[Any], std: NDArray[Any]) -> str:
    """The text of what is right [P, K], with what errors are divided by [K]."""
    return _text(
        {
            name: {"right": _numbers(future[:, k]), "mase": _number(mase[k]), "std": _number(std[k])}
            for k, name in enumerate(names)
        }
    )


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _numbers(values: NDArray[Any]) -> list[float | None]:
    return [_number(v) for v in values.tolist()]


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def read_forecast(text: str) -> dict[str, NDArray[np.float64]]:
    """Channel -> values [P] of a forecast; of quantiles those of the middle one."""
    return {
        name: np.array(told[MIDDLE] if isinstance(told, dict) else told, dtype=np.float64)
        for name, told in json.loads(text).items()
    }


def read_quantiles(text: str) -> dict[str, NDArray[np.float64]]:
    """Channel -> values [P, Q]; a forecast without quantiles is its own at every level."""
    out = {}
    for name, told in json.loads(text).items():
        levels = [told[f"{q:g}"] for q in QUANTILES] if isinstance(told, dict) else [told] * len(QUANTILES)
        out[name] = np.array(levels, dtype=np.float64).T
    return out


def has_quantiles(text: str) -> bool:
    """Whether a forecast has them."""
    return any(isinstance(told, dict) for told in json.loads(text).values())


def read_right(text: str) -> dict[str, tuple[NDArray[np.float64], float, float]]:
    """Channel -> (values [P], MASE's scale, standard deviation); NaN for what there is none of."""
    none = math.nan
    return {
        name: (
            np.array([none if v is None else v for v in told["right"]]),
            none if told["mase"] is None else told["mase"],
            told["std"],
        )
        for name, told in json.loads(text).items()
    }
