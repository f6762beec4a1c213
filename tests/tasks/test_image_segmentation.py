"""image-segmentation: masks as people have them, laid as their pictures are, and a loss that is transformers' own."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from tests import architectures
from tunewright.conformance.task_regions import CLASSES, segformer
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.labels import labels_of
from tunewright.data.read import read_all
from tunewright.data.truncate import trained_tokens
from tunewright.data.view import token_view
from tunewright.errors import DataError, ModelError
from tunewright.loading.load import Reading
from tunewright.loading.options import options_of
from tunewright.measure import regions
from tunewright.measure.drift import kl_drift, take_reference
from tunewright.measure.target import evaluate, figure_of, get_metric
from tunewright.pieces.features import states_at
from tunewright.recipe import DataSpec, Source
from tunewright.tasks import get_task
from tunewright.tasks._dense import SPREAD, dense_head, patches, spread
from tunewright.tasks._masks import NO_TARGET, is_drawn
from tunewright.tasks.image_segmentation import called, told
from tunewright.training.losses import weighted_sum

TASK = get_task("image-segmentation")
SMALL, MANY = {"height": 48, "width": 48}, tuple(map(str, range(300)))
SHORT = {"size": {"shortest_edge": 40}, "crop_size": SMALL}
SIZES = ((30, 20), (48, 48), (97, 61), (61, 97), (20, 140), (1, 1), (130, 131))
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("Segformer", {"size": SMALL}),
    ("Segformer", {"size": {"height": 40, "width": 56}, "resample": 3}),
    ("Beit", {"size": SMALL}),
    ("Beit", {"size": {"height": 56, "width": 60}, "do_center_crop": True, "crop_size": SMALL}),
    ("DPT", {"size": SMALL}),
    ("MobileViT", {**SHORT, "do_flip_channel_order": True}),
    ("MobileViT", {"size": {"shortest_edge": 60}, "crop_size": SMALL, "do_flip_channel_order": True}),
    ("MobileNetV2", {"size": {"shortest_edge": 60}, "crop_size": SMALL}),
]


def options(kind: str = "Segformer", labels: Any = CLASSES, masks: Any = None, **settings: Any) -> EncodeOptions:
    own = getattr(transformers, f"{kind}ImageProcessorPil")(**(settings or {"size": {"height": 8, "width": 8}}))
    data = DataSpec(train="x.jsonl", masks=masks, labels=list(labels))
    return options_of(data, labels, Reading(None, own, SimpleNamespace(image_size=48, num_channels=3), None))


def picture(height: int = 8, width: int = 8, seed: int = 0) -> Image.Image:
    drawn = np.random.default_rng([seed, height, width])
    return Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(mask: Any, how: EncodeOptions | None = None, base: str = "", **row: Any) -> Any:
    seen = row.pop("image", picture())
    return TASK.encode(Record({"image": seen, "mask": mask, **row}, id="r", base=base), None, how or options())


def file(mask: np.ndarray, mode: str | None = None, form: str = "PNG", **how: Any) -> bytes:
    out = io.BytesIO()
    made = Image.fromarray(mask)
    if mode == "P":
        made.putpalette([7 * k % 256 for k in range(768)])
    made.save(out, form, **how)
    return out.getvalue()


@pytest.mark.parametrize("kind, settings", SETTINGS)
def test_a_mask_is_laid_as_its_picture_is(kind: str, settings: dict[str, Any]) -> None:
    """Against transformers' own path for masks, where it pads nothing, told to take the nearest pixel (BEiT's and
    DPT's mix classes otherwise); and against a picture that shows its mask's numbers and is resized alike.
    """
    drawn = np.random.default_rng(0)
    own = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    plain = {"do_rescale": False, "do_normalize": False, "resample": 0}
    for size in SIZES:
        mask = drawn.integers(0, 250, size, dtype=np.uint8)
        row = encoded(mask.tolist(), options(kind, MANY, **settings), image=picture(*size))
        targets = row.fields["targets"]
        assert targets.shape == row.fields["pixels"].shape[1:]
        shown = Image.fromarray(np.repeat(mask[..., None], 3, 2) + np.uint8(1))
        seen = np.asarray(own(images=shown, **plain)["pixel_values"][0])[0].astype(int) - 1
        assert (targets == np.where(seen < 0, NO_TARGET, seen)).all()
        if (targets >= 0).all():
            theirs = own(images=picture(*size), segmentation_maps=Image.fromarray(mask), resample=0)["labels"]
            assert (targets == np.asarray(theirs[0])).all()


def test_numbers_beyond_a_byte_are_laid_alike() -> None:
    mask = np.arange(48 * 48).reshape(48, 48) % 300
    mask[mask == 255] = 0
    for kind, settings in (
        ("Segformer", {"size": SMALL}),
        ("MobileViT", {"size": {"shortest_edge": 48}, "crop_size": SMALL}),
    ):
        row = encoded(mask.tolist(), options(kind, MANY, **settings), image=picture(48, 48))
        assert (row.fields["targets"] == mask).all() and row.fields["targets"].max() == 299


def test_what_a_crop_adds_around_a_picture_does_not_count() -> None:
    row = encoded([[1] * 40] * 40, options("MobileNetV2", **SHORT), image=picture(40, 40))
    targets = row.fields["targets"]
    assert (targets == 1).sum() == 40 * 40 and (targets == NO_TARGET).sum() == 48 * 48 - 40 * 40
    assert trained_tokens(row) == 40 * 40 and row.size == patches(48, 48) == 9
    assert patches(512, 512) == 1024 and patches(17, 1) == 2


def test_masks_as_people_have_them_mean_the_same(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2, 255] * 2] * 8, np.uint8)
    Image.fromarray(mask).save(tmp_path / "grey.png")
    (tmp_path / "palette.png").write_bytes(file(mask, "P"))
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(mask.astype(np.int32)).save(tmp_path / "wide.tif")
    forms = [mask.tolist(), mask, "grey.png", "palette.png", "wide.png", "wide.tif", file(mask), Image.fromarray(mask)]
    forms += [{"bytes": file(mask), "path": None}, {"bytes": None, "path": "palette.png"}]
    wanted = np.where(mask == 255, NO_TARGET, mask.astype(int))
    for form in forms:
        assert (encoded(form, base=str(tmp_path)).fields["targets"] == wanted).all()
    for column in ("annotation", "label"):
        row = TASK.encode(Record({"image": picture(), column: mask}, id="r"), None, options())
        assert (row.fields["targets"] == wanted).all()
    two = np.array([[True, False] * 4] * 8)
    assert (encoded(file(two)).fields["targets"] == two).all()
    assert TASK.label_values(Record({"image": "", "mask": "palette.png"}, id="r", base=str(tmp_path))) == [0, 1, 2]
    assert TASK.label_values(Record({"image": "", "mask": "none.png"}, id="r", base=str(tmp_path))) == ()


@pytest.mark.parametrize(
    "mask, said, remedy",
    [
        ([[0] * 9] * 8, r"9 x 8, and its picture 8 x 8 \(width x height\)", "resize both alike"),
        (
            [[0, 0, 3, 0, 0, 0, 0, 0]] + [[0] * 8] * 7,
            "3 at column 2, line 0 is no class: there are 3, from 0 to 2",
            "labels",
        ),
        ([[-1] * 8] * 8, "-1 at column 0, line 0 is no class", "labels"),
        ([[255] * 8] * 8, "no pixel of it counts$", "give some pixel a class"),
        (None, "the row has no mask", "mask, annotation, label"),
        ("none.png", "no file 'none.png'", "relative to the data file"),
        (b"no png", "cannot be read as a picture", "write a PNG"),
        (file(np.zeros((8, 8, 3), np.uint8)), r"in colour \(RGB\)", "classes: "),
        (file(np.zeros((8, 8, 4), np.uint8)), r"in colour \(RGBA\)", "classes: "),
        (file(np.zeros((8, 8), np.uint8), form="JPEG"), "a JPEG, which does not keep", "PNG"),
        ([[0.5] * 8] * 8, "rows of whole numbers", "masks/1.png"),
        ([[0] * 8, [0] * 7], "rows of whole numbers", "masks/1.png"),
        (file(np.ones((8, 8), np.uint8))[:50], "cannot be read as a picture", "write a PNG"),
    ],
)
def test_what_is_no_mask_is_said(mask: Any, said: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(RowProblem, match=said) as caught:
        encoded(mask, base=str(tmp_path))
    assert caught.value.field == "mask" and remedy in caught.value.remedy


def test_classes_are_not_looked_for_in_colours(tmp_path: Path) -> None:
    picture().save(tmp_path / "p.png")
    (tmp_path / "m.png").write_bytes(file(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "rows.jsonl").write_text('{"image": "p.png", "mask": "m.png"}')
    with pytest.raises(DataError, match="in colour") as caught:
        labels_of([Source(path="rows.jsonl")], tmp_path, TASK)
    assert caught.value.where == "rows.jsonl:1" and "classes:" in (caught.value.remedy or "")
    (tmp_path / "m.png").write_bytes(file(np.full((8, 8), 255, np.uint8)))
    with pytest.raises(DataError, match="no pixel of it counts"):
        labels_of([Source(path="rows.jsonl")], tmp_path, TASK)


def test_what_is_lost_by_the_resize_is_said() -> None:
    mask = np.full((64, 64), 255)
    mask[0, 0] = 1
    with pytest.raises(RowProblem, match="cut off, or lost as it is resized"):
        encoded(mask, image=picture(64, 64))


def test_a_recipe_says_what_numbers_and_colours_mean() -> None:
    mask = np.array([[0, 1, 2, 3] * 2] * 8)
    reduced = encoded(mask, options(masks={"reduce_labels": True})).fields["targets"]
    assert (reduced == np.where(mask == 0, NO_TARGET, mask - 1)).all()
    other = encoded(np.where(mask == 3, 7, mask), options(masks={"ignore": 7})).fields["targets"]
    assert (other == np.where(mask == 3, NO_TARGET, mask)).all()
    with pytest.raises(RowProblem, match="255 at column 3"):
        encoded(np.where(mask == 3, 255, mask), options(masks={"ignore": None}))
    of = {"0": "cold", "5": "warm", "9": None}
    said = encoded(np.array([[0, 5, 9, 255] * 2] * 8), options(masks={"classes": of})).fields["targets"]
    assert (said[0, :4] == [1, 2, NO_TARGET, NO_TARGET]).all()
    with pytest.raises(RowProblem, match="4 at column 0, line 0 is no class: there are 3, such as 0"):
        encoded(np.full((8, 8), 4), options(masks={"classes": of}))
    colours = np.array([[(128, 64, 128), (0, 0, 0), (255, 0, 1), (128, 64, 128)] * 2] * 8, np.uint8)
    table = {"#804080": "warm", "#000000": None, "#FF0001": "ground"}
    for picture_of in (Image.fromarray(colours), Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)):
        painted = encoded(picture_of, options(masks={"classes": table})).fields["targets"]
        assert (painted[0, :4] == [2, NO_TARGET, 0, 2]).all()
    with pytest.raises(RowProblem, match="#804080 at column 0"):
        encoded(Image.fromarray(colours), options(masks={"classes": {"#000000": "ground", "#ff0001": "warm"}}))


def test_a_mask_of_black_and_white_is_asked_about() -> None:
    two, mask = ("ground", "road"), np.array([[0, 255] * 4] * 8)
    with pytest.raises(RowProblem, match="0 and 255") as caught:
        encoded(mask, options(labels=two))
    assert "classes: {0: ground, 255: road}" in caught.value.remedy and "{ignore: 255}" in caught.value.remedy
    assert (encoded(mask, options(labels=two, masks={"ignore": 255})).fields["targets"][:, 1] == NO_TARGET).all()
    told_so = options(labels=two, masks={"classes": {0: "ground", 255: "road"}, "ignore": None})
    assert (encoded(mask, told_so).fields["targets"][0, :2] == [0, 1]).all()
    assert TASK.label_values(Record({"mask": mask}, id="r")) == [0, 255]


def test_a_processor_that_reduces_labels_is_asked_about() -> None:
    how = options("Beit", size=SMALL, do_reduce_labels=True)
    mask = np.ones((8, 8), int)
    with pytest.raises(DataError, match="do_reduce_labels"):
        encoded(mask, how)
    for reduce, wanted in ((True, 0), (False, 1)):
        how = options("Beit", masks={"reduce_labels": reduce}, size=SMALL, do_reduce_labels=True)
        assert (encoded(mask, how).fields["targets"] == wanted).all()


def test_loss_and_logits_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model = segformer().eval()
    mask = np.random.default_rng(1).integers(0, 3, (3, 8, 8))
    mask[0, :3], mask[2, 0, 0] = 255, 255
    rows = [encoded(m, image=picture(seed=k)) for k, m in enumerate(mask)]
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        theirs = model(pixel_values=batch.inputs["pixel_values"], labels=torch.from_numpy(mask))
        wide = torch.nn.functional.interpolate(theirs.logits, size=(8, 8), mode="bilinear", align_corners=False)
    assert len(batch.labels) == (mask != 255).sum() and out.hidden is not None
    assert torch.equal(out.logits, wide.permute(0, 2, 3, 1)[torch.from_numpy(mask != 255)])
    assert float(TASK.loss(out, batch).value.mean()) == pytest.approx(float(theirs.loss), abs=1e-6)
    assert out.head is not None and out.features is not None
    assert torch.allclose(out.head(out.features), theirs.logits.mean((2, 3)), atol=1e-5)
    assert dense_head(model) is model.decode_head.classifier
    half = [r.replace(weights=[w]) for r, w in zip(rows, (0.5, 1.0, 2.0), strict=True)]
    assert [float(w) for w in TASK.collate(half).weights[[0, 40, -1]]] == [0.5, 1.0, 2.0]


def test_hidden_states_of_a_pixel_are_its_pictures() -> None:
    model = segformer().eval()
    batch = TASK.collate([encoded(np.full((8, 8), k), image=picture(seed=k)) for k in (0, 1)])
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
    assert out.hidden is not None
    states = states_at(out, batch, -1)
    assert len(states) == len(batch.labels) and torch.equal(states[-1], out.hidden[-1][1].mean((1, 2)))
    assert not torch.equal(states[0], states[-1])


def test_a_class_may_weigh_more_in_the_loss() -> None:
    torch.manual_seed(0)
    model, mask = segformer().eval(), np.random.default_rng(1).integers(0, 3, (2, 8, 8))
    mask[0, :3] = 255
    how = options(masks={"weights": {"warm": 5.0}})
    rows = [encoded(m, how, image=picture(seed=k)) for k, m in enumerate(mask)]
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch)
    ours = weighted_sum(TASK.loss(out, batch), batch, None) / batch.weights.sum()
    weight = torch.tensor([1.0, 1.0, 5.0])
    assert float(ours) == pytest.approx(
        float(torch.nn.functional.cross_entropy(out.logits, batch.labels, weight)), abs=1e-6
    )
    assert (TASK.collate([encoded(mask[0])]).weights == 1).all() and set(batch.weights.tolist()) == {1.0, 5.0}
    with pytest.raises(ValueError, match="names 'worm', which is no class"):
        options(masks={"weights": {"worm": 5.0}})


def test_pixels_are_counted_by_class_and_by_what_is_said() -> None:
    names = called(["a b", "a:b", "c>d", "e"])
    assert names == ["a_b#0", "a_b#1", "c_d", "e"]
    right, said = np.array([0, 0, 1, 3, 3]), np.array([0, 2, 1, 3, 3])
    assert told(right, said, names) == "a_b#0:1 a_b#0>c_d:1 a_b#1:1 e:2" and told(right, right, names) != ""
    row = encoded(np.array([[0, 1, 2, 255] * 2] * 8))
    assert row.fields["reference"] == "ground:16 cold:16 warm:16"
    assert token_view(row, None) == [
        ("[warm 25.0%]", 1.0), ("[ground 25.0%]", 1.0), ("[cold 25.0%]", 1.0), ("[without a class 25.0%]", 0.0)
    ]  # fmt: skip


def test_drift_is_read_at_pixels_of_a_grid() -> None:
    torch.manual_seed(0)
    model, other = segformer().eval(), segformer().eval()
    rows = [
        encoded(np.full((64, 64), k), options(size={"height": 64, "width": 64}), image=picture(64, 64)) for k in (0, 1)
    ]
    task, whole = TASK, rows[0].fields["targets"].copy()
    batch = task.collate([spread(row) for row in rows])
    assert (rows[0].fields["targets"] == whole).all() and spread(rows[0].replace(fields={})).fields == {}
    places = batch.fields["pixels"].view(2, -1)
    assert len(batch.labels) == 2 * SPREAD and torch.equal(places[0], places[1] - 64 * 64)
    high, wide = places[0] // 64, places[0] % 64
    assert set(high.tolist()) == set(wide.tolist()) == set(range(2, 64, 4))
    with torch.no_grad():
        other.decode_head.classifier.weight.mul_(30)
    reference = take_reference(model, task, rows)
    assert kl_drift(reference, model).interval.value == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        a, b = (torch.log_softmax(task.forward(m, batch).logits, -1) for m in (model, other))
    wanted = float((a.exp() * (a - b)).sum(-1).mean())
    assert kl_drift(reference, other).interval.value == pytest.approx(wanted, rel=1e-5) and wanted > 1e-4


def test_the_metric_is_evaluates_own() -> None:
    """Counted again from the pixels, as `evaluate`'s mean_iou does: areas by histograms, classes that are nowhere left
    out.
    """
    torch.manual_seed(3)
    model = segformer().eval()
    masks = np.random.default_rng(2).integers(0, 2, (4, 8, 8))
    masks[1, :2] = 255
    rows = [encoded(m, image=picture(seed=k)) for k, m in enumerate(masks)]
    batch = TASK.collate(rows)
    with torch.no_grad():
        said = TASK.forward(model, batch).logits.argmax(-1).numpy()
    right = batch.labels.numpy()
    both, each, there = (np.bincount(x, minlength=3).astype(float) for x in (said[said == right], said, right))
    with np.errstate(invalid="ignore"):
        iou, recall = both / (each + there - both), both / there
    results = evaluate(model, None, TASK, rows, "mean_iou")
    assert figure_of(results, "mean_iou") == pytest.approx(np.nanmean(iou))
    assert figure_of(results, "mean_accuracy") == pytest.approx(np.nanmean(recall))
    assert figure_of(results, "overall_accuracy") == pytest.approx((said == right).mean())
    parts = get_metric("mean_iou").parts
    assert parts is not None and parts(results) == pytest.approx({CLASSES[k]: iou[k] for k in (1, 0)})
    assert (said == 2).any() and regions.iou_by_class(results)["warm"] == 0  # said, and nowhere there


HEADS = {
    "beit": "decode_head.classifier",
    "data2vec-vision": "decode_head.classifier",
    "dpt": "head.head.4",
    "mobilenet_v2": "segmentation_head.classifier.convolution",
    "mobilevit": "segmentation_head.classifier.convolution",
    "mobilevitv2": "segmentation_head.classifier.convolution",
    "segformer": "decode_head.classifier",
    "upernet": "decode_head.classifier",
}


def test_every_architecture_is_tried() -> None:
    untried = {"sapiens2", "tipsv2_dpt"}  # their head is found, or they are refused
    assert set(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES) - untried == set(HEADS) == set(architectures.DENSE)


@pytest.mark.parametrize("name", HEADS)
def test_the_head_that_answers_is_found_and_what_it_reads(name: str) -> None:
    model = architectures.make(name, "image-segmentation", num_labels=3)
    head = dense_head(model)
    assert {n: m for n, m in model.named_modules()}[HEADS[name]] is head
    side = architectures.SIDE
    how = options(size={"height": side, "width": side})
    rows = [encoded(np.full((side, side), k), how, image=picture(side, side, k)) for k in (0, 1)]
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch)
        theirs = model(pixel_values=batch.inputs["pixel_values"]).logits
    assert out.features is not None and out.features.shape == (2, head.in_channels) and out.head is not None
    assert out.logits.shape == (2 * side * side, 3) and out.hidden is None
    wide = torch.nn.functional.interpolate(theirs, size=(side, side), mode="bilinear", align_corners=False)
    assert torch.equal(out.logits, wide.permute(0, 2, 3, 1).flatten(0, 2))
    if name != "dpt":  # whose logits are made larger behind the head
        assert torch.allclose(out.head(out.features), theirs.mean((2, 3)), atol=1e-3 * float(theirs.abs().max()))


def test_a_model_without_such_a_head_is_refused_by_name() -> None:
    model = segformer()
    model.config.num_labels = 7
    with pytest.raises(ModelError, match="no head that gives 7 classes a pixel"):
        dense_head(model)


@pytest.mark.parametrize("column, kind", [("annotation", "parquet"), ("label", "disk"), ("mask", "parquet")])
def test_columns_of_datasets_are_read_as_they_are(column: str, kind: str, tmp_path: Path) -> None:
    import datasets

    mask = np.array([[0, 1, 2, 255] * 2] * 8, np.uint8)
    rows = {"image": [picture()], column: [Image.fromarray(mask)], "scene": ["street"]}
    features = datasets.Features(
        {"image": datasets.Image(), column: datasets.Image(), "scene": datasets.Value("string")}
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    if kind == "parquet":
        made.to_parquet(tmp_path / "rows.parquet")
    else:
        made.save_to_disk(tmp_path / "rows.parquet")
    (record,) = read_all(Source(path="rows.parquet"), tmp_path).records
    assert (
        TASK.encode(record, None, options()).fields["targets"] == np.where(mask == 255, NO_TARGET, mask.astype(int))
    ).all()
    assert TASK.label_values(record) == [0, 1, 2]
    wanted = "image-label" if column == "label" else "image-mask"
    assert record.shape == wanted and is_drawn(record) == (column == "label")


def test_paths_of_a_table_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture().save(tmp_path / "a" / "p.png")
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "a" / "m.png")
    for name, text in (
        ("rows.csv", "image,label\np.png,m.png\n"),
        ("rows.jsonl", '{"image": "p.png", "mask": "m.png"}'),
    ):
        (tmp_path / "a" / name).write_text(text)
        (record,) = read_all(Source(path=f"a/{name}"), tmp_path).records
        assert (TASK.encode(record, None, options()).fields["targets"] == 1).all()
        assert is_drawn(record) == (name == "rows.csv")
    assert not is_drawn(Record({"image": "p.png", "label": "cat"}, id="r"))
