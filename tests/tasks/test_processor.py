"""A model's own image processor is followed to the pixel, or refused: its figures would be another picture's."""

from __future__ import annotations

import pytest
import transformers

from tests import tiny
from tunewright.errors import ModelError
from tunewright.loading.load import load
from tunewright.loading.options import options_of
from tunewright.recipe import DataSpec
from tunewright.tasks._processor import check_processor
from tunewright.tasks.image_classification import image_options

SMALL = {"height": 48, "width": 48}


def checked(kind: str, **settings: object) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    check_processor(processor, image_options(processor), "preprocessor_config.json")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {}),
        ("ViT", {"size": SMALL, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]}),
        ("ViT", {"size": SMALL, "do_normalize": False}),
        ("CLIP", {}),
        ("CLIP", {"size": {"shortest_edge": 64}, "crop_size": SMALL}),
        ("Siglip", {}),
        ("Beit", {}),
        ("Bit", {}),
        ("MobileNetV2", {}),
        ("DeiT", {"do_center_crop": False}),
    ],
)
def test_what_is_followed_passes(kind: str, settings: dict[str, object]) -> None:
    checked(kind, **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("ConvNext", {"size": {"shortest_edge": 224}}, "other pixels"),  # a crop by percentage
        ("ConvNext", {}, "other pixels"),
        ("PoolFormer", {}, "other pixels"),
        ("MobileViT", {"size": {"shortest_edge": 48}, "crop_size": SMALL}, "other pixels"),  # channels turned round
        ("Levit", {}, "other pixels"),  # resized to more than the crop
        ("EfficientNet", {}, "other pixels"),
        ("Perceiver", {}, "other pixels"),
        ("DeiT", {}, "shape"),  # cropped after a resize to a square
    ],
)
def test_what_is_not_followed_is_refused(kind: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError, match=rf"{kind}ImageProcessorPil prepares pictures .*{says}"):
        checked(kind, **settings)


def test_a_models_folder_is_refused_before_any_row_is_read(tmp_path) -> None:
    tiny.vit().save_pretrained(tmp_path)
    for kind, refused in (("ViT", False), ("MobileViT", True)):
        crop = {"height": 16, "width": 16}
        sizes = {"size": crop} if kind == "ViT" else {"size": {"shortest_edge": 16}, "crop_size": crop}
        getattr(transformers, f"{kind}ImageProcessorPil")(**sizes).save_pretrained(tmp_path)
        loaded = load(str(tmp_path), "image-classification", labels=["a", "b", "c"])
        if refused:
            with pytest.raises(ModelError, match="preprocessor_config.json.*MobileViT"):
                options_of(DataSpec(train="x.jsonl"), ["a", "b", "c"], loaded)
        else:
            assert options_of(DataSpec(train="x.jsonl"), ["a", "b", "c"], loaded).image["height"] == 16
