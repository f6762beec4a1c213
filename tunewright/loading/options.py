"""How rows are encoded for a loaded model: what the recipe says, the labels, and how its images are made."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.contract.task import EncodeOptions
from tunewright.loading.load import Loaded
from tunewright.recipe import DataSpec


def options_of(data: DataSpec, labels: Sequence[str] | None, loaded: Loaded) -> EncodeOptions:
    """How rows of a `data` section are encoded for a loaded model."""
    image = None
    if loaded.tokenizer is None:
        from tunewright.tasks.image_classification import image_options

        image = image_options(loaded.processor, getattr(loaded.model, "config", None))
    return EncodeOptions(
        max_length=data.max_length,
        truncation=data.truncation,
        template=data.template,
        system=data.system,
        chat=data.chat,
        labels=tuple(labels) if labels else None,
        image=image,
    )
