"""Names that recipes and tasks share."""

FORECASTING = "time-series-forecasting"
"""The task's name."""
DETECTION = "object-detection"
"""The name of the task of boxes."""
FEATURES = "image-feature-extraction"
"""The name of the task of pictures without labels."""
PICTURE, CLASSED = "picture", "classed-picture"
"""The kinds of its rows (`fields["kind"]`)."""
VIEWS = {"area": (0.2, 1.0), "mirror": True, "turn": 0.0, "light": 0.4, "colour": 0.4, "grey": 0.2}
"""How far a changed view of a picture may lie from it, where a recipe does not say (`data.views`)."""
UNCONDITIONAL, TO_IMAGE = "unconditional-image-generation", "text-to-image"
"""The names of the tasks whose models draw pictures."""
NOISED = "noised-picture"
"""The kind of their rows."""
DRAWN = {"num_inference_steps": 20, "guidance_scale": 1.0}
"""How pictures are drawn to be measured, where a recipe does not say."""
SERIES = "series"
"""The `format` of a source that holds series, and the shape of its rows."""
TRAIN, TEST, ROLLING = "train", "test", "rolling"
SPLITS = (TRAIN, TEST, ROLLING)
"""What the `split` of such a source may be: see `tasks._series`."""
