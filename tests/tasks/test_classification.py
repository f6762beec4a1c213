"""Classification of texts and pictures: labels, features, padding, pixels as the model's own processor makes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests import architectures, tiny
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.errors import RecipeError
from tunewright.tasks import get_task, names
from tunewright.tasks.base import discover_labels, label_id
from tunewright.tasks.image_classification import image_options

LABELS = ("card", "loan", "other")


def record(**values) -> Record:
    return Record(values, id="r:1", source="s")


@pytest.mark.parametrize("value, expected", [("loan", 1), (2, 2), (1.0, 1), ("2", 2), (True, 1), (np.int64(0), 0)])
def test_labels_are_names_or_ids(value, expected):
    assert label_id(value, LABELS) == expected


@pytest.mark.parametrize(
    "value, says",
    [
        (3, "outside 0..2"),
        (-1, "outside"),
        (math.nan, "NaN"),
        (None, "NaN"),
        ("lone", "no known label"),
        (0.5, "no class id"),
        ([1], "not list"),
    ],
)
def test_bad_labels(value, says):
    with pytest.raises(RowProblem, match=says) as caught:
        label_id(value, LABELS)
    assert caught.value.field == "label"


@pytest.mark.parametrize(
    "labels, values",
    [
        (("1", "2", "3"), [(1, 0), ("1", 0), (1.0, 0), (3, 2), (0, None), (4, None), (True, 0)]),
        (("10", "20"), [(10, 0), (20, 1), (1, None), (0, None), ("0", None)]),
        (("-1", "1"), [(-1, 0), (1, 1), (1.0, 1), ("-1", 0), (0, None)]),
        (("1.0", "2.0"), [(1, 0), ("1", 0), (2.0, 1), ("2.0", 1), (0, None)]),
        (("01", "1"), [("01", 0), (1, 1), ("1", 1), ("001", None)]),
        (("01", "001"), [(1, None), ("01", 0)]),
        (("0", "1", "many"), [(0, 0), (2, None), ("many", 2)]),
        (("true", "false"), [(True, 0), (False, 1)]),
        (("no", "yes"), [(False, 0), (True, 1), (1, 1), (10**400, None), (float("inf"), None), ("\u00b2", None)]),
    ],
)
def test_a_number_is_a_name_where_names_are_numbers_and_else_a_place(labels, values):
    for value, expected in values:
        if expected is None:
            with pytest.raises(RowProblem):
                label_id(value, labels)
        else:
            assert label_id(value, labels) == expected, value


@pytest.mark.parametrize(
    "values, expected",
    [
        ((1, "1", 2, "3"), ("1", "2", "3")),
        ((1, 1.0, True), ("0", "1")),
        (("-1", "1"), ("-1", "1")),
        ((0, 2), ("0", "1", "2")),
        ((7, 10**9), ("7", "1000000000")),
        (("10", "9", "100"), ("9", "10", "100")),
        ((1.0, "b"), ("1", "b")),
    ],
)
def test_every_label_that_is_discovered_is_found_again_as_itself(values, expected):
    labels = discover_labels([record(label=v) for v in values])
    assert labels == expected
    for v in values:
        assert labels[label_id(v, labels)] == (v if isinstance(v, str) else str(int(v)))


def test_a_label_as_an_answer_is_found_by_name_before_its_place():
    task, t = get_task("text-generation"), tiny.tokenizer()

    def answer(label, names):
        return task.encode(record(text="how many?", label=label), t, EncodeOptions(labels=names)).fields["reference"]

    assert [answer(1, n) for n in (None, ("1", "2"), ("no", "yes"))] == ["1", "1", "yes"]
    for label in (5, ["a"], None):
        with pytest.raises(RowProblem):
            answer(label, ("no", "yes"))


def test_classes_of_numbers_with_a_point_are_the_values():
    """Whole numbers from 1 may be ids of which 0 did not occur; 1.0 and 2.0 are what a table holds."""
    assert discover_labels([record(label=x) for x in (1.0, 2.0, 1.0)]) == ("1", "2")
    assert discover_labels([record(label=np.float32(x)) for x in (1, 2, -1)]) == ("1", "2")
    assert discover_labels([record(label=x) for x in (0.0, 3.0, math.nan, -1.0)]) == ("0", "3")
    assert discover_labels([record(label=x) for x in (1, 2)]) == ("0", "1", "2")
    assert [label_id(x, ("1", "2")) for x in (1.0, 2.0, 1, "2")] == [0, 1, 0, 1]


def test_what_no_row_can_have_is_no_class():
    values = (0, 1, None, "", " ", 2.5, math.nan, "two")
    assert discover_labels([record(label=x) for x in values]) == ("0", "1", "two")
    with pytest.raises(RowProblem, match="the label is empty"):
        label_id(" ", ("0", "two"))
    assert label_id("", ("", "two")) == 0


def test_labels_are_discovered_in_a_fixed_order():
    assert discover_labels([record(label=x) for x in (1, -1, 0)]) == ("0", "1")
    assert discover_labels([record(label=x) for x in ("b", "a", None, "b")]) == ("a", "b")
    assert discover_labels([record(label=x) for x in (10, 2, math.nan)])[-1] == "10"


def test_text_classification_pads_and_gives_the_heads_input():
    task, model, t = get_task("text-classification"), tiny.bert_classifier(), tiny.tokenizer(encoder=True)
    rows = [
        task.encode(record(text=x, label=y), t, EncodeOptions(labels=LABELS))
        for x, y in [("my card", "card"), ("a much longer text of a loan", 1)]
    ]
    assert rows[1].label == 1 and rows[1].fields["reference"] == "loan"
    batch = task.collate(rows)
    outputs = task.forward(model, batch)
    assert torch.allclose(model.classifier(outputs.features), outputs.logits, atol=1e-6)
    alone = task.forward(model, task.collate(rows[:1]))
    assert torch.allclose(alone.logits[0], outputs.logits[0], atol=1e-5)
    assert torch.allclose(
        task.loss(outputs, batch).value,
        torch.nn.functional.cross_entropy(outputs.logits, batch.labels, reduction="none"),
    )


def test_pictures_are_made_as_the_models_own_processor_makes_them():
    task = get_task("image-classification")
    processor = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 24, 3), dtype=np.uint8))
    options = EncodeOptions(labels=LABELS, image=image_options(processor))
    batch = task.collate([task.encode(record(image=np.asarray(picture), label=2), None, options)])
    theirs = processor(picture, return_tensors="pt").pixel_values
    assert (batch.inputs["pixel_values"] - theirs).abs().max() < 1e-6
    outputs = task.forward(tiny.vit(), batch)
    assert outputs.logits.shape == (1, 3) and outputs.features.shape == (1, 32)


def test_pictures_from_a_path_a_list_and_grey_pixels(tmp_path):
    task, model = get_task("image-classification"), tiny.vit(channels=1)
    options = EncodeOptions(labels=LABELS, image=image_options(config=model.config))
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(tmp_path / "a.png")
    by_path = Record({"image": "a.png", "label": 0}, id="r", base=str(tmp_path))
    rows = [
        task.encode(r, None, options)
        for r in (by_path, record(image=[[7] * 16] * 16, label=0), record(image=np.full((16, 16, 1), 7), label=0))
    ]
    for row in rows[1:]:
        assert np.array_equal(row.fields["pixels"], rows[0].fields["pixels"])
    assert task.collate(rows).inputs["pixel_values"].shape == (3, 1, 16, 16)


@pytest.mark.parametrize("image", ["none.png", [[1, 2], [3]], [[300]], [[float("nan")]], b"no picture", 5])
def test_bad_pictures(image, tmp_path):
    with pytest.raises(RowProblem) as caught:
        get_task("image-classification").encode(
            Record({"image": image, "label": 0}, id="r", base=str(tmp_path)), None, EncodeOptions(labels=LABELS)
        )
    assert caught.value.field == "image"


def test_tasks_are_found_by_name():
    assert names() == [
        *("audio-classification", "automatic-speech-recognition"),
        *(
            "fill-mask",
            "image-classification",
            "image-feature-extraction",
            "image-segmentation",
            "image-text-to-text",
            "multiple-choice",
            "object-detection",
            "question-answering",
            "reinforcement-learning",
            "reward-modeling",
        ),
        "sentence-similarity",
        *("tabular-classification", "tabular-regression"),
        *("text-classification", "text-generation", "text-ranking", "text-to-image", "text2text-generation"),
        *("time-series-forecasting", "token-classification", "unconditional-image-generation"),
        "zero-shot-image-classification",
    ]
    assert all(get_task(n).name == n for n in names())
    with pytest.raises(RecipeError, match="did you mean 'text-generation'"):
        get_task("text-generaton")


def test_a_model_of_two_towers_says_its_pictures_size_in_the_one_that_sees():
    model = architectures.make("siglip", "image-classification")
    assert image_options(config=model.config)["height"] == architectures.SIDE
