"""The real run of forecasts: hourly loads and the oil temperature of a transformer (ETTh1, Zhou et al. 2021).

No small pre-trained forecaster may be passed on, so one is made first, from nothing, on the six loads: PatchTST of one
channel, four days of context and one to forecast. It then learns the oil temperature, which it has not seen; the loads
are kept. The last fifth of each file is measured on.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

CONFIG = {
    "model_type": "patchtst",
    "num_input_channels": 1,
    "context_length": 96,
    "prediction_length": 24,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "pooling_type": None,
    "norm_type": "layernorm",
}
OIL = "OT"
TASK = "time-series-forecasting"
TRAIN: dict[str, Any] = {"precision": "float32", "seed": 0, "threads": 1, "batch_tokens": 3072}


def files(data: Path, out: Path) -> tuple[str, str]:
    """(a file of the six loads, one of the oil temperature), each with its times."""
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(data / "etth1" / "ETTh1.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    loads = [name for name in rows[0] if name not in ("date", OIL)]
    for name, columns in (("loads", loads), ("oil", [OIL])):
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as made:
            writer = csv.DictWriter(made, ["date", *columns], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return str(out / "loads.csv"), str(out / "oil.csv")


def first(loads: str) -> dict[str, Any]:
    """The recipe of the forecaster that is made from nothing."""
    return {
        "model": {"config": CONFIG},
        "task": TASK,
        "data": {"train": loads, "series": {"stride": 24, "backtests": 30}},
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 2e-3},
        "budget": {"epochs": 2},
        "measurement": {"strengths": [1]},
    }


def second(model: str, loads: str, oil: str) -> dict[str, Any]:
    """The recipe by which it learns the oil temperature."""
    return {
        "model": model,
        "task": TASK,
        "data": {"train": oil, "series": {"stride": 12}},
        "keep": [{"data": loads, "name": "loads", "limit": 2000}],
        "methods": [{"lora": {"rank": 4}}],
        "train": {**TRAIN, "learning_rate": 2e-3},
        "budget": {"epochs": 2},
        "measurement": {"strengths": [1]},
    }
