"""Names that a recipe of forecasts and the task share."""

FORECASTING = "time-series-forecasting"
"""The task's name."""
SERIES = "series"
"""The `format` of a source that holds series, and the shape of its rows."""
TRAIN, TEST, ROLLING = "train", "test", "rolling"
SPLITS = (TRAIN, TEST, ROLLING)
"""What the `split` of such a source may be: see `tasks._series`."""
