"""By what a method spares parameters: the categories of Zhang et al.'s survey (2025; papers:
peft-for-foundation-models-survey), and one for what spares none.
"""

from __future__ import annotations

PAPERS = ("peft-for-foundation-models-survey",)
CATEGORIES: dict[str, str] = {
    "selective": "some of the model's own parameters train, the others stay",
    "additive": "new layers, vectors or factors train beside the frozen model",
    "prompt": "vectors that are read before or beside a row's own train",
    "reparameterised": "a change of the model's weights trains in a form with fewer numbers, mostly of low rank",
    "hybrid": "several of these at once or in turn",
    "whole": "all weights train (no category of the survey: it spares none)",
}
"""What each means: `category` of a method is one of these."""
