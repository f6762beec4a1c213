"""A first recipe for a model that forecasts: what a file of series holds, its windows, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.data.read import read_all
from tunewright.errors import DataError, ModelError
from tunewright.recipe import Source
from tunewright.tasks._parts import SERIES
from tunewright.tasks._series import Series, held_out

KINDS = ("patchtst", "patchtsmixer", "timesfm")
"""The types of models that forecast."""
WINDOWS = 2_000
"""Training windows that a first recipe takes about: neighbours a step apart say nearly the same."""
_SMALL = 10_000_000

_TEXT = """\
# Adapts {model} to {name}. `tunewright check {file}` checks the series,
# `tunewright plan {file}` says what would be trained and how long it takes, `tunewright run {file}` does it.
# Measured: {measured}
model: {model}
task: time-series-forecasting
data:
  train: {data}
  series:
    stride: {stride:<19} # steps between training windows: about {count:,} of {context} steps and {ahead} to forecast
    test: 20%                 # the last {end:,} steps of each series are held out, and measured on
    # channels: [{channels}]
    # backtests: 3            # windows at each series' end to measure on, in the place of `test`
    # season: {season:<18} # steps of a season, for MASE and the seasonal forecast
# keep:                       # series that the model must not forget: their loss is measured before and after
#   - {{data: other.csv}}
train:                        # what is left out follows from the rows: docs/defaults.md
  seed: 0
methods:                      # `tunewright methods` lists them
  - {method}
budget: {{epochs: 3}}
"""


def starter(model: str, config: Mapping[str, Any], path: str, data: str, file: str, weights: int) -> str:
    """The recipe's text. `config` is the model's, `path` where the data is and `data` how the recipe names it.

    DataError where the file holds no series that can be used, ModelError where the config says no lengths.
    """
    read = read_all(Source(path=path, format=SERIES), Path.cwd())
    found = [r[SERIES] for r in read.records if isinstance(r[SERIES], Series)]
    if not found:
        raise read.problems[0].error() if read.problems else DataError("the file holds no series", where=path)
    context, ahead = (config.get(name) for name in ("context_length", "prediction_length"))
    ahead = config.get("horizon_length", ahead)
    if not isinstance(context, int) or not isinstance(ahead, int):
        raise ModelError(
            "its config says no context_length and prediction_length", where=model, remedy="write them there"
        )
    lengths = [len(s.values) for s in found]
    own = {"context": context, "prediction": ahead, "backtests": None, "test": 0.2}
    end = held_out(max(lengths), own)
    parts = len(found[0].names) if config.get("num_input_channels", 1) == 1 else 1
    windows = sum(max(0, n - held_out(n, own) - context - ahead + 1) for n in lengths) * parts
    stride = max(1, windows // WINDOWS)
    bad = f"; {len(read.problems)} cannot be used" if read.problems else ""
    many = "1 series" if len(found) == 1 else f"{len(found):,} series"
    steps = f"{max(lengths):,}" if min(lengths) == max(lengths) else f"{min(lengths):,} to {max(lengths):,}"
    return _TEXT.format(
        model=model,
        name=path.rsplit("/", 1)[-1],
        file=file,
        data=data,
        measured=f"{many} of {steps} steps, {found[0].step} apart, {len(found[0].names)} channels{bad}.",
        stride=stride,
        count=windows // stride,
        context=context,
        ahead=ahead,
        end=end,
        channels=", ".join(found[0].names[:4]),
        season=found[0].step.season,
        method="full                      # small enough to train whole" if weights <= _SMALL else "lora: {rank: 16}",
    )


def forecasts(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model that forecasts."""
    return config.get("model_type") in KINDS
