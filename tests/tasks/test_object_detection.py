"""object-detection: boxes as people have them, rows a model reads alone, and the loss that transformers computes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from PIL import Image

from tests import detecting
from tunewright.conformance.task_boxes import CLASSES, processor, yolos
from tunewright.contract.batch import Batch, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.truncate import trained_tokens
from tunewright.data.view import token_view
from tunewright.errors import RecipeError
from tunewright.loading.load import Reading
from tunewright.loading.options import options_of
from tunewright.measure.drift import kl_drift, take_reference
from tunewright.measure.target import check_metric
from tunewright.planning.check import check_recipe
from tunewright.recipe import DataSpec, Recipe
from tunewright.runs.run import run
from tunewright.tasks import _detectors, get_task
from tunewright.tasks._boxes import FORMATS, from_corners, shown, to_corners

TASK = get_task("object-detection")
numbers = st.floats(0, 1, allow_nan=False)
SIZES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


def options(labels: Any = CLASSES, boxes: Any = None, reader: Any = None) -> EncodeOptions:
    data = DataSpec(train="x.jsonl", boxes=boxes, labels=list(labels))
    config = SimpleNamespace(image_size=16, num_channels=3)
    return options_of(data, labels, Reading(None, reader or processor(), config, None))


def picture(width: int = 20, height: int = 10) -> Image.Image:
    drawn = np.random.default_rng([width, height])
    return Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(objects: Any, how: EncodeOptions | None = None, **row: Any) -> Row:
    record = Record({"image": picture(), "objects": objects, **row}, id="r")
    return TASK.encode(record, None, how or options())


def one(box: Any, kind: Any = "warm", **more: Any) -> dict[str, Any]:
    return {"bbox": [box], "category": [kind], **more}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=4), st.sampled_from(FORMATS), SIZES)
def test_each_format_goes_there_and_back(shares: Any, form: str, size: tuple[int, int]) -> None:
    low = np.array(shares, float).reshape(-1, 4)
    corners = np.concatenate([low[:, :2], low[:, :2] + low[:, 2:]], 1) * np.array([*size, *size])
    back = to_corners(from_corners(corners, form, size), form, size)
    assert np.allclose(back, corners, rtol=1e-9, atol=1e-6)
    again = from_corners(to_corners(from_corners(corners, form, size), form, size), form, size)
    assert np.allclose(again, from_corners(corners, form, size), rtol=1e-9, atol=1e-6)


def test_the_formats_are_those_of_their_names() -> None:
    """One box of 100 x 50: 10, 20 to 30, 40 in pixels."""
    wanted = {
        "coco": [10, 20, 20, 20],
        "pascal_voc": [10, 20, 30, 40],
        "albumentations": [0.1, 0.4, 0.3, 0.8],
        "yolo": [0.2, 0.6, 0.2, 0.4],
    }
    for form, box in wanted.items():
        assert np.allclose(to_corners([box], form, (100, 50)), [[10, 20, 30, 40]])
        assert np.allclose(from_corners(np.array([[10.0, 20, 30, 40]]), form, (100, 50)), [box])
        size = {"image": picture(100, 50)}
        assert np.allclose(encoded(one(box), options(boxes={"format": form}), **size).fields["boxes"], [wanted["yolo"]])
        assert np.allclose(encoded(one(box, format=form), **size).fields["boxes"], [wanted["yolo"]])


def test_objects_as_people_have_them_mean_the_same() -> None:
    wanted = encoded({"bbox": [[1, 2, 3, 4], [5, 1, 10, 6]], "category": ["warm", "cold"]}).fields
    assert wanted["classes"] == [1, 0] and wanted["side"] == [20, 10]
    forms: list[Any] = [
        {"bbox": np.array([[1, 2, 3, 4], [5, 1, 10, 6]]), "categories": np.array([1, 0])},
        {"boxes": [[1, 2, 3, 4], [5, 1, 10, 6]], "label": ["warm", "cold"], "area": [12, 60], "id": [3, 4]},
        [{"bbox": [1, 2, 3, 4], "category": "warm"}, {"bbox": [5.0, 1, 10, 6], "category": "cold"}],
        [{"box": [1, 2, 3, 4], "category_id": 1, "iscrowd": 0}, {"box": [5, 1, 10, 6], "category_id": 0}],
    ]
    for form in forms:
        fields = encoded(form).fields
        assert all(fields[k] == wanted[k] for k in ("boxes", "classes", "reference")), form
    assert TASK.label_values(Record({"objects": forms[2]}, id="r")) == ["warm", "cold"]
    assert TASK.label_values(Record({"objects": "none"}, id="r")) == ()


def test_a_picture_may_show_nothing_and_a_crowd_is_not_learnt() -> None:
    nothing = encoded({"bbox": [], "category": []})
    assert nothing.fields["boxes"] == [] and nothing.fields["reference"] == "[]" and trained_tokens(nothing) == 1
    assert token_view(nothing, None) == [("[nothing]", 1.0)]
    row = encoded({"bbox": [[0, 0, 4, 5], [2, 2, 10, 4], [0, 0, 2, 2]], "category": [1, 0, 1], "iscrowd": [0, 1, 0]})
    assert row.fields["classes"] == [1, 1] and row.size == 1
    assert json.loads(row.fields["reference"])[1] == ["cold", [2.0, 2.0, 12.0, 6.0], True]
    assert token_view(row, None) == [("[warm: 2 boxes of 2.0% to 10.0%]", 1.0), ("[crowds: 1, not learnt]", 0.0)]


@pytest.mark.parametrize(
    "objects, said, remedy",
    [
        (one([10, 2, 12, 4]), r"box 1 lies outside of the picture of 20 x 10: \[10, 2, 12, 4\] as coco", "pascal_voc"),
        (one([-5, -2, 24, 8]), "box 1 lies outside", "clip: true"),
        (one([25, 2, 3, 4]), "box 1 lies outside", "take it out"),
        (one([1, 2, 0, 4]), r"box 1 has no area: \[1, 2, 0, 4\] as coco", "take it out"),
        (one([4, 4, -2, 2]), "box 1 has no area", "take it out"),
        (one([0.1, 0.2, 0.3, 0.4]), r"box 1 lies within one pixel: \[0.1, 0.2, 0.3, 0.4\] as coco", "albumentations"),
        (one([0.6, 0.6, 0.5, 0.5]), "box 1 lies within one pixel", "{format: yolo}"),
        ({"bbox": [1, 2, 3, 4], "category": ["warm"]}, r"bbox holds numbers and no boxes: \[1, 2, 3, 4\]", "bbox: "),
        (one([1, float("nan"), 3, 4]), "box 1 is not finite", "take it out"),
        (one([1, float("inf"), 3, 4]), "box 1 is not finite", "take it out"),
        (one([1, 2, 3]), r"box 1 is no four numbers: \[1, 2, 3\]", "width, height"),
        (one(["1", 2, 3, 4]), "box 1 is no four numbers", "width, height"),
        (one([True, 2, 3, 4]), "box 1 is no four numbers", "width, height"),
        (one([1, 2, 3, 4], "lukewarm"), "'lukewarm' is no known label", "cold, warm"),
        (one([1, 2, 3, 4], None), "the label is missing", "cold, warm"),
        (one([1, 2, 3, 4], format="voc"), "'voc' is no format", "pascal_voc"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "1 boxes have 0 classes", "each box one class"),
        ({"bbox": "x", "category": ["warm"]}, "no list of boxes", "bbox: "),
        ({"category": ["warm"]}, "no list of boxes", "bbox: "),
        ("[1, 2, 3, 4]", "boxes and their classes are needed, not str", "bbox: "),
        (None, "the row has no objects", "name its column"),
    ],
)
def test_what_is_no_box_is_said(objects: Any, said: str, remedy: str) -> None:
    with pytest.raises(RowProblem, match=said) as caught:
        encoded(objects)
    assert caught.value.field == "objects" and remedy in caught.value.remedy


def test_what_reaches_out_of_its_picture_is_cut() -> None:
    """By a pixel always, as tools round; by more where the recipe says so; what lies beside it, never."""
    assert np.allclose(encoded(one([-0.4, 2, 3, 8.9])).fields["boxes"], [[0.065, 0.6, 0.13, 0.8]])
    wide = options(boxes={"clip": True})
    assert np.allclose(encoded(one([-5, -5, 30, 20]), wide).fields["boxes"], [[0.5, 0.5, 1, 1]])
    with pytest.raises(RowProblem, match="outside"):
        encoded(one([30, 2, 3, 4]), wide)


def test_boxes_of_another_size_than_the_picture_are_refused() -> None:
    assert encoded(one([1, 2, 3, 4]), width=20, height=10)
    with pytest.raises(RowProblem, match=r"drawn on 21 x 10 \(width x height\), and the picture is 20 x 10"):
        encoded(one([1, 2, 3, 4]), width=21, height=10)
    out = io.BytesIO()
    tag = Image.Exif()
    tag[274] = 6  # a quarter turn
    picture(10, 20).save(out, "JPEG", exif=tag)
    with pytest.raises(RowProblem, match="turned by its EXIF tag") as caught:
        encoded(one([1, 2, 3, 4]), image=out.getvalue(), width=10, height=20)
    assert caught.value.field == "image"


def test_pictures_of_every_mode_are_read_upright() -> None:
    """Turned, grey, with transparency, of 16 bits: boxes are those of the picture as it is shown."""
    out = io.BytesIO()
    tag = Image.Exif()
    tag[274] = 6
    picture(10, 20).save(out, "JPEG", exif=tag)
    wide = Image.fromarray(np.full((10, 20), 40000, np.uint16))
    for seen in (out.getvalue(), picture().convert("L"), picture().convert("RGBA"), wide):
        row = encoded(one([10, 0, 10, 10]), image=seen)
        assert np.allclose(row.fields["boxes"], [[0.75, 0.5, 0.5, 1]]) and row.fields["shape"] == [3, 16, 16]
    with pytest.raises(RowProblem, match="no file 'none.png'"):
        encoded(one([1, 2, 3, 4]), image="none.png")


@pytest.mark.parametrize("kind", ["Detr", "Yolos", "RTDetr", "ConditionalDetr", "DeformableDetr"])
def test_pictures_are_what_the_models_own_processor_makes_of_them(kind: str) -> None:
    """Of several shapes, each alone; and boxes are those that it makes of COCO's."""
    own = getattr(transformers, f"{kind}ImageProcessorPil")(
        **({} if kind == "RTDetr" else {"size": {"shortest_edge": 48, "longest_edge": 80}})
    )
    how = options(reader=own)
    for size in ((20, 10), (10, 20), (31, 57)):
        boxes = [[1.0, 2.0, 5.0, 4.0], [0.0, 0.0, float(size[0]), 3.0]]
        row = encoded({"bbox": boxes, "category": [1, 0]}, how, image=picture(*size))
        told = [{"bbox": b, "category_id": k, "area": 1.0, "iscrowd": 0} for b, k in zip(boxes, (1, 0), strict=True)]
        theirs = own(images=picture(*size), annotations={"image_id": 1, "annotations": told}, return_tensors="pt")
        batch = TASK.collate([row])
        torch.testing.assert_close(batch.inputs["pixel_values"], theirs["pixel_values"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.fields["boxes"][0], theirs["labels"][0]["boxes"], rtol=1e-5, atol=1e-6)
        assert batch.fields["classes"][0].tolist() == theirs["labels"][0]["class_labels"].tolist()
        assert shown(row).dtype == np.uint8 and batch.inputs["pixel_values"].shape[2:] == tuple(
            batch.fields["sides"][0]
        )


def rows(sides: Any = ((64, 64),) * 3, counts: Any = (2, 1, 0)) -> list[Row]:
    drawn = np.random.default_rng(0)
    out = list[Row]()
    for i, ((h, w), n) in enumerate(zip(sides, counts, strict=True)):
        fields = {
            "kind": "boxed",
            "flat": drawn.normal(size=3 * h * w).astype(np.float32),
            "shape": [3, h, w],
            "boxes": [[0.3 + 0.2 * k, 0.4, 0.2, 0.3] for k in range(n)],
            "classes": [k % 2 for k in range(n)],
            "side": [w, h],
            "names": list(CLASSES),
            "reference": "[]",
        }
        out.append(Row(f"r{i}", "s", (), [1.0], fields=fields))
    return out


def said_by(model: Any, batch: Batch) -> Any:
    """What transformers' model gives for pictures and what is there."""
    labels = [
        {"class_labels": c[c >= 0], "boxes": b[c >= 0]}
        for b, c in zip(batch.fields["boxes"], batch.fields["classes"], strict=True)
    ]
    return model(pixel_values=batch.inputs["pixel_values"], labels=labels)


def theirs(model: Any, batch: Batch) -> torch.Tensor:
    return said_by(model, batch).loss


@pytest.mark.parametrize("name", detecting.MODELS)
def test_the_loss_is_transformers_own_of_each_picture(name: str) -> None:
    """Beside others of other sizes as alone, with gradients in every weight that the model's own loss reaches."""
    side = 32 if name == "yolos" else 64
    wide = side if name == "yolos" else 2 * side
    model, some = detecting.make(name), rows(((side, side),) * 3 + ((side, wide),), (2, 1, 0, 2))
    batch = TASK.collate(some)
    with torch.no_grad():
        out = TASK.forward(model, batch)
        own = torch.stack([theirs(model, TASK.collate([row])) for row in some])
        alone = [TASK.forward(model, TASK.collate([row])) for row in some]
        hidden = TASK.forward(model, batch, hidden=True).hidden
    torch.testing.assert_close(TASK.loss(out, batch).value, own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits, torch.cat([a.logits for a in alone]), rtol=1e-4, atol=1e-5)
    assert out.features is not None and len(out.features) == 4 and hidden is not None and len(hidden) > 1
    assert "_loss_function" not in model.__dict__ or model.loss_function.__name__ != "each"
    value = TASK.loss(TASK.forward(model, batch), batch).value.mean()
    weights = [p for p in model.parameters() if p.requires_grad]
    reached = torch.autograd.grad(value, weights, allow_unused=True)
    mean = torch.stack([theirs(model, TASK.collate([row])) for row in some]).mean()
    wanted = torch.autograd.grad(mean, weights, allow_unused=True)
    assert [g is None for g in reached] == [g is None for g in wanted]
    for a, b in zip(reached, wanted, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_with_as_many_boxes_in_each_picture_it_is_the_whole_batchs() -> None:
    for name in ("yolos", "detr", "deformable_detr"):
        model, some = detecting.make(name), rows((((32, 32) if name == "yolos" else (64, 64)),) * 3, (2, 2, 2))
        batch = TASK.collate(some)
        with torch.no_grad():
            mean = TASK.loss(TASK.forward(model, batch), batch).value.mean()
            torch.testing.assert_close(mean, theirs(model, batch), rtol=1e-5, atol=1e-5)


def test_losses_of_inner_layers_count_where_the_model_says_so() -> None:
    model = detecting.make("detr", auxiliary_loss=True)
    some = rows()
    with torch.no_grad():
        batch = TASK.collate(some)
        own = torch.stack([theirs(model, TASK.collate([row])) for row in some])
        torch.testing.assert_close(TASK.loss(TASK.forward(model, batch), batch).value, own, rtol=1e-5, atol=1e-5)
        plain = detecting.make("detr")
        assert (own > TASK.loss(TASK.forward(plain, batch), batch).value).all()


def test_training_adds_noisy_boxes_of_rt_detrs_own_and_shows_none_of_them() -> None:
    model, some = detecting.make("rt_detr"), rows()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    torch.manual_seed(0)
    out = TASK.forward(model, batch := TASK.collate(some))
    assert out.raw.logits.shape == (3, 6, 2) and out.raw.boxes.shape == (3, 6, 4)
    torch.manual_seed(0)
    said = [said_by(model, TASK.collate([row])) for row in some]
    torch.testing.assert_close(TASK.loss(out, batch).value, torch.stack([s.loss for s in said]), rtol=1e-5, atol=1e-5)
    assert said[0].logits.shape[1] > 6, "noisy ones stand before"
    torch.testing.assert_close(out.raw.logits, torch.cat([s.logits[:, -6:] for s in said]), rtol=1e-5, atol=1e-5)


def test_drift_is_that_of_each_proposals_classes() -> None:
    """By hand: of a class or nothing, and of each class there or not."""
    for name, V in (("yolos", 3), ("deformable_detr", 2)):
        side = 32 if name == "yolos" else 64
        model, some = detecting.make(name), rows(((side, side),) * 2, (2, 0))
        compared = TASK.compared(model.config)
        reference = take_reference(model, compared, some)
        assert kl_drift(reference, model).interval.value == pytest.approx(0, abs=1e-6)
        batch = TASK.collate(some)
        with torch.no_grad():
            before = TASK.forward(model, batch).raw.logits
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
            after = TASK.forward(model, batch).raw.logits
        assert before.shape[-1] == V
        before, after = before.double(), after.double()
        if V == 3:
            p, q = before.softmax(-1), after.softmax(-1)
            kl = (p * (p / q).log()).sum(-1)
        else:
            p, q = before.sigmoid(), after.sigmoid()
            kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        assert kl_drift(reference, model).interval.value == pytest.approx(kl.mean().item(), rel=1e-3)
    assert TASK.compared(detecting.make("rt_detr").config) is TASK


def test_metrics_of_tokens_and_classes_are_refused() -> None:
    for metric in ("mean_token_accuracy", "accuracy", "mean_iou"):
        with pytest.raises(RecipeError) as caught:
            check_metric(metric, TASK)
        assert "metric: auto or metric: loss" in (caught.value.remedy or "")
    assert check_metric("loss", TASK) and check_metric("map_50", TASK)


def test_a_model_that_pads_or_is_timms_is_known_before_it_is_read() -> None:
    assert _detectors.count_of(yolos(proposals=7).config) == 7
    heads = {name: _detectors.has_nothing(detecting.make(name).config) for name in detecting.MODELS}
    assert heads == {n: n in ("yolos", "detr", "table-transformer") for n in detecting.MODELS}


@pytest.mark.parametrize("name", [n for n in detecting.MODELS if n != "dab-detr"])  # which mixes types itself
def test_a_model_in_bfloat16_has_about_the_same_loss(name: str) -> None:
    side = 32 if name == "yolos" else 64
    model, batch = detecting.make(name), TASK.collate(rows(((side, side),) * 3))
    with torch.no_grad():
        wide = TASK.loss(TASK.forward(model, batch), batch).value
        half = TASK.loss(TASK.forward(model.to(torch.bfloat16), batch), batch).value
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, wide, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_the_pages_detector_is_drawn_and_trained_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/from-nothing.md, as a reader copies it: the script, the recipe, a check and (two steps of) the run."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "from-nothing.md").read_text(encoding="utf-8")
    section = page.split("## A detector, offline\n")[1].split("\n## ")[0]
    (script,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", section, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    exec(compile(script, "draw.py", "exec"), {"__name__": "__main__"})
    (tmp_path / "detect.yaml").write_text(recipe)
    found = check_recipe(tmp_path / "detect.yaml")
    assert found.ok and found.report.sources[0].shapes == {"image-objects": 120}
    short = ["budget.steps=2", "train.batch_tokens=64", "train.threads=1"]
    done = run(Recipe.load(tmp_path / "detect.yaml", short), tmp_path / "out", quiet=True)
    assert done.report.target is not None and done.report.target.metric == "map" and done.report.target.n == 40
