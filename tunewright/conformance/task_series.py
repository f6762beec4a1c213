"""What time-series-forecasting is checked on: waves that can be learnt, in windows of 12 steps and 4 to forecast."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance.task_case import TaskExample

CONTEXT, AHEAD = 12, 4
SIZES: dict[str, Any] = {
    "context_length": CONTEXT,
    "prediction_length": AHEAD,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": 16,
}


def patchtst(**sizes: Any) -> Any:
    """PatchTST of two blocks, of one channel unless `sizes` say otherwise."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    own = {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 32, "norm_type": "layernorm"}
    return PatchTSTForPrediction(PatchTSTConfig(**{**SIZES, **own, "pooling_type": None, "init_std": 0.2, **sizes}))


class NoReader:
    """Series are read as they are: nothing is saved beside the model."""

    def save_pretrained(self, folder: Path) -> None:
        """Write nothing."""


def wave(k: int) -> list[float]:
    """Sixteen steps of a wave of eight, begun at another place for each k."""
    return [round(10 + 3 * math.sin((t + k) * math.pi / 4) + 0.1 * (t * k % 3), 1) for t in range(CONTEXT + AHEAD)]


def right(row: Mapping[str, Any]) -> str:
    """What is right of a row with one window, from the row itself."""
    history, after = np.array(row["target"][:CONTEXT]), row["target"][CONTEXT:]
    mase, std = np.abs(np.diff(history)).mean(), history.std()
    rounded = [float(f"{np.float32(x):.7g}") for x in (mase, std)]
    return json.dumps({"target": {"right": after, "mase": rounded[0], "std": rounded[1]}})


def mean_mase(pairs: Sequence[tuple[str, str]]) -> float:
    """MASE over (forecast, what is right) pairs of one channel."""
    each = []
    for answer, reference in pairs:
        said, told = json.loads(answer)["target"], json.loads(reference)["target"]
        said = told["right"] if isinstance(said, dict) else said
        errors = [abs(a - b) for a, b in zip(said, told["right"], strict=True)]
        each.append(sum(errors) / len(errors) / told["mase"])
    return sum(each) / len(each)


def time_series_forecasting() -> TaskExample:
    """Eleven waves of which each holds one window."""
    start = {"start": "2020-01-01", "freq": "D"}
    return TaskExample(
        model=patchtst,
        reader=NoReader(),
        rows=[{**start, "target": wave(k)} for k in range(11)],
        bad={
            "a target of text": ({**start, "target": [*wave(0)[:-1], "high"]}, "target"),
            "a series that is too short": ({**start, "target": wave(0)[:5]}, "length"),
            "no such frequency": ({"start": "2020-01-01", "freq": "fortnight", "target": wave(0)}, "freq"),
            "values beside the series": ({**start, "target": wave(0), "feat_dynamic_real": [[1]]}, "feat_dynamic_real"),
        },
        right=right,
        figure=mean_mase,
    )
