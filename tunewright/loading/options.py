"""How rows are encoded for a loaded model: what the recipe says, the labels, and how images and recordings are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.contract.task import EncodeOptions
from tunewright.loading.load import Loaded, Reading
from tunewright.loading.picture_reader import PictureReader
from tunewright.loading.policies import policy_options
from tunewright.models.denoiser import DenoiserConfig
from tunewright.models.next_scale import NextScaleConfig
from tunewright.recipe import DataSpec
from tunewright.tasks import _detectors, _drawing, _forecasters, _policies


def options_of(data: DataSpec, labels: Sequence[str] | None, model: Loaded | Reading) -> EncodeOptions:
    """How rows of a `data` section are encoded for a model, whether its weights are loaded or not."""
    image = audio = series = trajectories = None
    kind = getattr(_config_of(model), "model_type", None)
    if isinstance(_config_of(model), DenoiserConfig | NextScaleConfig):
        image = _drawing.options_for(_config_of(model))
    elif data.series is not None:
        series = {**data.series.model_dump(), **_forecasters.sizes(_config_of(model))}
    elif data.trajectories is not None or kind == _policies.TYPE:
        trajectories = policy_options(_config_of(model), data.trajectories)
    elif model.processor is not None and hasattr(model.processor, "sampling_rate"):
        from tunewright.tasks._features import audio_options

        audio = audio_options(model.processor, _config_of(model))
    elif isinstance(model.processor, PictureReader):
        from tunewright.tasks._shown import picture_options

        image = picture_options(model.processor.settings, model.tokenizer, _config_of(model))
    elif model.processor is not None and _detectors.detects(model.processor):
        image = _detectors.prepared_as(model.processor, _config_of(model), "preprocessor_config.json")
    elif model.tokenizer is None or model.processor is not None:
        from tunewright.tasks._processor import followed
        from tunewright.tasks.image_classification import image_options

        config = _config_of(model)
        image = image_options(model.processor, config)
        if model.processor is not None:
            own = image_options(config=config)
            image = followed(model.processor, image, (own["height"], own["width"]), "preprocessor_config.json")
            image |= {"reduces": True} if getattr(model.processor, "do_reduce_labels", False) else {}
        image |= {"masks": data.masks.model_dump()} if data.masks is not None else {}
    if image is not None and data.boxes is not None:
        image |= {"boxes": data.boxes.model_dump()}
    if image is not None and data.views is not None:
        image |= {"views": data.views.model_dump(mode="json")}
    most = getattr(model.tokenizer, "model_max_length", None) or data.max_length
    return EncodeOptions(
        max_length=min(data.max_length, int(min(most, 1 << 30))),  # what the model reads at most, which messages name
        truncation=data.truncation,
        template=data.template,
        system=data.system,
        chat=data.chat,
        labels=tuple(labels) if labels else None,
        image=image,
        audio=audio,
        series=series,
        trajectories=trajectories,
        table=None if data.table is None else data.table.layout(),
    )


def _config_of(model: Loaded | Reading) -> Any:
    return model.config if isinstance(model, Reading) else getattr(model.model, "config", None)
