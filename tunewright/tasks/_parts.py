"""Names that recipes and tasks share."""

FORECASTING = "time-series-forecasting"
"""The task's name."""
DETECTION = "object-detection"
"""The name of the task of boxes."""
SERIES = "series"
"""The `format` of a source that holds series, and the shape of its rows."""
TRAIN, TEST, ROLLING = "train", "test", "rolling"
SPLITS = (TRAIN, TEST, ROLLING)
"""What the `split` of such a source may be: see `tasks._series`."""
