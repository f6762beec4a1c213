"""Pixels are those of a model's own image processor, to the last one, or the model or the picture is refused."""

from __future__ import annotations

import json
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from tests import tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.facts import BLANK, Looking
from tunewright.errors import ModelError
from tunewright.loading.load import Reading, load
from tunewright.loading.options import options_of
from tunewright.recipe import DataSpec
from tunewright.tasks import _processor, get_task

TASK, LABELS = get_task("image-classification"), ("a", "b", "c")
SMALL = {"height": 48, "width": 48}
SHORT = {"size": {"shortest_edge": 40}, "crop_size": SMALL}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "Beit": [{"size": SMALL}, {"size": SMALL, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}}],
    "Bit": [SHORT, {**SHORT, "do_center_crop": False, "size": SMALL}],
    "CLIP": [SHORT, {"size": {"shortest_edge": 64}, "crop_size": SMALL}],
    "ConvNext": [{"size": {"shortest_edge": 48}}, {"size": {"shortest_edge": 48}, "crop_pct": 0.6}],
    "DeiT": [{"size": {"height": 56, "width": 56}, "crop_size": SMALL}, {"size": SMALL, "do_center_crop": False}],
    "Donut": [{"size": SMALL}, {"size": {"height": 40, "width": 56}, "do_align_long_axis": True}],
    "EfficientNet": [{"size": SMALL}, {"size": SMALL, "include_top": False}, {"size": SMALL, "rescale_offset": True}],
    "Gemma3": [{"size": SMALL}],
    "Levit": [{"size": {"shortest_edge": 48}, "crop_size": SMALL}],
    "MobileNetV1": [SHORT],
    "MobileNetV2": [SHORT],
    "MobileViT": [SHORT, {**SHORT, "do_flip_channel_order": False}],
    "Perceiver": [{"size": SMALL, "crop_size": {"height": 64, "width": 64}}],
    "PoolFormer": [{"size": {"shortest_edge": 48}, "crop_size": SMALL}, {**SHORT, "crop_pct": None}],
    "Pvt": [{"size": SMALL}],
    "Segformer": [{"size": SMALL}],
    "Siglip": [{"size": SMALL}],
    "TextNet": [{"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": SMALL}],
    "ViT": [
        {"size": SMALL},
        {"size": SMALL, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4], "resample": 3},
        {"size": SMALL, "do_normalize": False},
        {"size": SMALL, "do_rescale": False},
        {"size": SMALL, "rescale_factor": 1 / 127.5},
    ],
}
REFUSED = {
    "ImageGPT": "takes no plain picture",  # pictures as words of a vocabulary that is not there
    "Siglip2": "channels",  # patches of any number, with masks
    "TimmWrapper": None,  # needs torchvision, so that none can be made here
}
SIZES = ((30, 20), (48, 48), (97, 61), (61, 97), (20, 140), (140, 20), (1, 1), (1, 4), (3, 2), (130, 131))


def processor(kind: str, **settings: Any) -> Any:
    return getattr(transformers, f"{kind}ImageProcessorPil")(**settings)


@cache
def noise(height: int, width: int) -> Image.Image:
    drawn = np.random.default_rng([height, width])
    return Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))


def options(own: Any, side: int = 48) -> EncodeOptions:
    config = SimpleNamespace(image_size=side, num_channels=3)
    return options_of(DataSpec(train="x.jsonl"), LABELS, Reading(None, own, config, None))


def encoded(picture: Any, how: EncodeOptions) -> Any:
    return TASK.encode(Record({"image": picture, "label": "a"}, id="r"), None, how)


def test_the_table_names_every_processor_of_a_classifier() -> None:
    families = [IMAGE_PROCESSOR_MAPPING_NAMES.get(f) for f in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES]
    kinds = {names["pil"].split("ImageProcessor")[0] for names in families if names and names.get("pil")}
    assert kinds == SETTINGS.keys() | REFUSED.keys()


@pytest.mark.parametrize("kind, settings", [(k, s) for k, many in SETTINGS.items() for s in many])
def test_pixels_are_those_of_the_models_own_processor(kind: str, settings: dict[str, Any]) -> None:
    own = processor(kind, **settings)
    how = options(own)
    rows = [encoded(noise(*size), how) for size in SIZES]
    ours = TASK.collate(rows).inputs["pixel_values"]
    theirs = torch.cat([own(images=noise(*size), return_tensors="pt")["pixel_values"].float() for size in SIZES])
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-6 * max(1.0, theirs.abs().max())


def test_the_fast_path_makes_what_it_can_and_eight_bits_are_kept_where_they_say_all() -> None:
    for kind in SETTINGS:
        own = options(processor(kind, **SETTINGS[kind][0])).image or {}
        slow = "ConvNext DeiT Donut EfficientNet Levit MobileViT Perceiver PoolFormer TextNet".split()
        assert ("processor" in own) == (kind in slow), kind
        assert kind not in slow or own["processor"]["whole"] == (kind != "EfficientNet"), kind
    floats = options(processor("EfficientNet", size=SMALL, rescale_offset=True))
    assert encoded(noise(9, 9), floats).fields["pixels"].dtype == np.float32


@pytest.mark.parametrize("kind", [k for k, says in REFUSED.items() if says])
def test_what_makes_no_pixels_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"{kind}ImageProcessorPil .*{REFUSED[kind]}") as caught:
        options(processor(kind))
    assert caught.value.remedy and caught.value.where == "preprocessor_config.json"


def test_a_processor_that_keeps_a_pictures_own_shape_takes_those_of_the_models() -> None:
    kept = options(processor("TextNet", size={"shortest_edge": 64}), side=64)
    assert encoded(noise(64, 64), kept).fields["pixels"].shape == (3, 64, 64)
    with pytest.raises(RowProblem, match="makes a picture of 64 x 128 of it, not of 64 x 64") as caught:
        encoded(noise(64, 120), kept)
    assert caught.value.field == "image" and caught.value.remedy


def test_a_picture_of_one_colour_is_noticed_in_normalised_pixels_too() -> None:
    floats = options(processor("EfficientNet", size=SMALL, rescale_offset=True))
    for picture, blank in ((Image.new("RGB", (9, 9), (200, 9, 60)), True), (noise(9, 9), False)):
        row = encoded(picture, floats)
        assert row.fields["pixels"].dtype == np.float32
        record = Record({}, id="r", where="x:1")
        assert bool(Looking(TASK, None).facts([(record, row, [row])])["flags"][0] & BLANK) == blank


def test_a_long_strip_is_refused_before_it_is_resized() -> None:
    how = options(processor("ConvNext", size={"shortest_edge": 224}))
    with pytest.raises(RowProblem, match="1 x 60000 is too narrow"):
        encoded(Image.new("RGB", (1, 60_000)), how)


def test_what_a_processor_raises_of_a_picture_is_said_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    how = options(processor("DeiT"))
    for error, says in ((ZeroDivisionError("by zero"), "cannot prepare it: by zero"), (MemoryError(), "memory")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(_processor, "_made", fail)
        with pytest.raises(RowProblem, match=says):
            encoded(noise(9, 9), how)


def test_a_processor_of_grey_pictures_is_followed() -> None:
    own = processor("DeiT", size={"height": 56, "width": 56}, crop_size=SMALL, image_mean=[0.4], image_std=[0.3])
    config = SimpleNamespace(image_size=48, num_channels=1)
    how = options_of(DataSpec(train="x.jsonl"), LABELS, Reading(None, own, config, None))
    grey = noise(30, 50).convert("L")
    ours = TASK.collate([encoded(grey, how)]).inputs["pixel_values"]
    assert (ours - own(images=grey, return_tensors="pt")["pixel_values"]).abs().max() < 1e-6


def test_pictures_are_brought_to_plain_colours_before_a_processor_sees_them() -> None:
    own = processor("ConvNext", size={"shortest_edge": 48})
    how = options(own)
    wide = Image.fromarray((np.asarray(noise(40, 60).convert("L")).astype(np.uint16)) * 257)
    clear = Image.new("RGBA", (20, 20), (9, 9, 9, 0))
    for given, meant in (
        (wide, noise(40, 60).convert("L").convert("RGB")),
        (clear, Image.new("RGB", (20, 20), "white")),
    ):
        ours = TASK.collate([encoded(given, how)]).inputs["pixel_values"]
        assert (ours - own(images=meant, return_tensors="pt")["pixel_values"]).abs().max() < 1e-6


def test_rows_are_known_by_the_processor_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {options(processor("ConvNext", size={"shortest_edge": 48}, crop_pct=p)).key() for p in (0.7, 0.8)}
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "0")  # a lazy module stands in its place
    keys.add(options(processor("ConvNext", size={"shortest_edge": 48}, crop_pct=0.8)).key())
    assert len(keys) == 3


def test_a_models_folder_is_read_with_its_processor_and_no_code_of_its_own(tmp_path, monkeypatch) -> None:
    tiny.vit().save_pretrained(tmp_path)
    crop = {"height": 16, "width": 16}
    processor("MobileViT", size={"shortest_edge": 16}, crop_size=crop).save_pretrained(tmp_path)
    loaded = load(str(tmp_path), "image-classification", labels=list(LABELS))
    made = options_of(DataSpec(train="x.jsonl"), LABELS, loaded).image
    assert made["height"] == 16 and made["processor"]["kind"] == "MobileViTImageProcessorPil"
    asked, ask = [], transformers.AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained", lambda *a, **more: asked.append(more) or ask(*a, **more)
    )
    load(str(tmp_path), "image-classification", labels=list(LABELS))
    assert asked[0]["backend"] == "pil" and asked[0]["trust_remote_code"] is False
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "OursImageProcessor"}))
    with pytest.raises(ModelError, match="preprocessor_config.json.*cannot be read"):
        load(str(tmp_path), "image-classification", labels=list(LABELS))
