"""time-series-forecasting: the values of a series' next steps, from those of the steps before.

A row is a window of a series (`tasks._series`): C steps of context and P steps to forecast, of K channels; C, P and K
are the model's. Missing values are masked: the model's own scaler does not see them, and no loss is taken of them.
Where a model has one channel and a series several, each channel is a series of its own.

    loss = mean over known targets of ((y - forecast) / s_k)^2

with s_k the standard deviation of the channel before the held-out end, so that it is the squared error of the papers,
who standardise channels so. A model with a distribution (`config.loss: nll`) is trained by the negative log-density
of the known targets, in nats a value, as transformers does (there the sum over channels), and one with deciles by
their pinball loss beside the squared error (TimesFM).

What counts as a token is a step of the context.

Errors: RowProblem for a series that is too short, has other channels than the model, or text among its values.
Differs from transformers: its own losses of PatchTST and PatchTSMixer are in the data's units, where the channel with
the largest values decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.tasks import _forecasters, _forecasts
from tunewright.tasks._parts import ROLLING
from tunewright.tasks._series import Series, Window, as_the_model, windows
from tunewright.tasks.base import epochs_of, in_type

KIND = "window"
"""The kind of its rows (`fields["kind"]`)."""


class TimeSeriesForecasting(Task):
    """`fields`: `past` and `seen` [C, K] (values, 0 where unknown by way of the context's mean; whether known),
    `future` and `known` [P, K], `std` and `mase` [K], the forecasts `seasonal` and `last` [P, K], `names`, `at`.
    """

    name: ClassVar[str] = "time-series-forecasting"
    auto_class: ClassVar[str] = "AutoModelForTimeSeriesPrediction"
    unit: ClassVar[str] = "loss per value"

    @property
    def likelihoods(self) -> bool:
        """A value has none among classes, whatever distribution a model gives of it."""
        return False

    def loads_by(self, config: Any) -> str:
        """PatchTST and PatchTSMixer have no automatic class."""
        return _forecasters.class_of(config, self.auto_class)

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """A window as a row; of a series the last window. `tokenizer` is not used."""
        series = options.series
        if series is None:
            raise RowProblem("series", "nobody says what a window is", "give EncodeOptions.series")
        window = record.get("window")
        if not isinstance(window, Window):
            whole = record.get("series")
            if not isinstance(whole, Series):
                what = "the row holds no series"
                raise RowProblem("target", what, "write start, target and freq, or a row a time with format: series")
            window = [w for one in as_the_model(whole, series) for w in windows(one, ROLLING, series)][-1]
        return _row(record, window, series["outputs"])

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`past_values` and `past_observed_mask` [R, C, K]. One target a row; `fields`: `future`, `known` [R, P, K],
        `std` [R, K].
        """

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([np.asarray(r.fields[name]) for r in rows]))

        return Batch(
            inputs={"past_values": stacked("past"), "past_observed_mask": stacked("seen").float()},
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            epochs=epochs_of(rows, epochs),
            fields={"future": stacked("future"), "known": stacked("known").float(), "std": stacked("std")},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, P K] are the forecasts in standard deviations of their channels, `features` [R, D] the means of
        the states that the head reads. MethodError for a change that reads places in texts.
        """
        if context.reads_rows(model):
            raise MethodError(
                "the change reads where tokens stand, and a window of a series has none",
                remedy="take a method that changes weights, or adds to layers' outputs",
            )
        with context.reading(None):
            said = _forecasters.read(model, in_type(model, batch.inputs), hidden=hidden)
        return Outputs(
            (said.forecast / batch.fields["std"][:, None]).flatten(1),
            batch.labels,
            log_probs=_none,
            hidden=said.hidden,
            features=None if said.states is None else said.states.mean(1),
            raw=said,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R] the mean over a row's known targets."""
        said, known = outputs.raw, batch.fields["known"]
        future, std = batch.fields["future"], batch.fields["std"][:, None]
        if said.kind:
            each = _forecasters.surprise(said, future)
        else:
            scaled = outputs.logits.float().view(future.shape)
            each = (scaled - future / std) ** 2
            if said.quantiles is not None:
                each = each + _pinball(said.quantiles, future, std)
        return Loss((each * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1))

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(the forecast, what is right) of each row, see `tasks._forecasts`."""
        std = batch.fields["std"][:, None]
        values = (outputs.logits.float().view(batch.fields["future"].shape) * std).double().cpu().numpy()
        found = _forecasters.quantiles_of(outputs.raw)
        out = []
        for i, row in enumerate(rows):
            names, each = row.fields["names"], np.asarray(row.fields["std"])
            said = _forecasts.forecast(names, values[i], each)
            if found is not None:
                said = _forecasts.spread(names, found[i].double().cpu().numpy(), each)
            out.append((said, right_of(row)))
        return out

    def default_metric(self, rows: Sequence[Row]) -> str:
        """MASE; where no series has a scale for it, the mean absolute error in standard deviations."""
        return "mase" if any(np.isfinite(r.fields["mase"]).any() for r in rows) else "scaled_mae"


def right_of(row: Row) -> str:
    """What is right of a row, as a text."""
    known = np.where(np.asarray(row.fields["known"]) > 0, row.fields["future"], np.nan)
    return _forecasts.right(row.fields["names"], known, row.fields["mase"], row.fields["std"])


def without_model(row: Row) -> dict[str, str]:
    """What needs no model: the last season again, the last value again, as texts of forecasts."""
    names, std = row.fields["names"], np.asarray(row.fields["std"])
    told = {"seasonal naive": "seasonal", "last value": "last"}
    return {name: _forecasts.forecast(names, np.asarray(row.fields[field]), std) for name, field in told.items()}


def _row(record: Record, window: Window, outputs: Sequence[int] | None) -> Row:
    """A window as a row; `outputs`: the channels that the model forecasts, None: all."""
    series, seen = window.series, ~np.isnan(window.past)
    of = list(range(len(series.names))) if outputs is None else list(outputs)
    future = window.future[:, of]
    fields = {
        "kind": KIND,
        "past": np.where(seen, window.past, np.nanmean(window.past, 0)).astype(np.float32),
        "seen": seen.astype(np.uint8),
        "future": np.nan_to_num(future).astype(np.float32),
        "known": (~np.isnan(future)).astype(np.uint8),
        "std": window.std[of].astype(np.float32),
        "mase": window.mase[of].astype(np.float32),
        "seasonal": window.seasonal[:, of].astype(np.float32),
        "last": window.last[:, of].astype(np.float32),
        "names": [series.names[k] for k in of],
        "series": series.name,
        "at": window.at,
        "size": np.array(len(window.past), np.int32),
        "text": f"{', '.join(series.names)}: {len(window.past)} steps to {series.times[window.at - 1]}",
    }
    return Row(record.id, record.source, (), [1.0], fields=fields)


def _pinball(quantiles: Tensor, future: Tensor, std: Tensor) -> Tensor:
    """[R, P, K] mean pinball loss of quantiles [R, P, K, Q], in standard deviations."""
    levels = torch.tensor(_forecasters.QUANTILES, device=future.device)
    short = (future[..., None] - quantiles) / std[..., None]
    return torch.maximum(levels * short, (levels - 1) * short).mean(-1)


def _none() -> Tensor:
    raise MethodError(
        "a forecast has no likelihoods", remedy="take a method that serves this task, or none: the task has a loss"
    )
