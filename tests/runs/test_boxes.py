"""Runs of object-detection: several kinds of models, changes of several kinds, and what plain transformers reads."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    DetrImageProcessorPil,
    RTDetrImageProcessorPil,
    YolosImageProcessorPil,
)

from tests import detecting
from tunewright.contract.batch import Row
from tunewright.errors import MethodError, ModelError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.models.agreement import agrees
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.paired.result import Pair
from tunewright.report.schema import Report
from tunewright.runs import boxed_pictures
from tunewright.runs.run import run

NAMES = ["block", "bar"]
_SQUARE = {"size": {"height": 64, "width": 64}}
READERS: dict[str, Any] = {
    "yolos": lambda: YolosImageProcessorPil(size={"height": 32, "width": 32}),
    "detr": lambda: DetrImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 80}),
    "deformable_detr": lambda: detecting.transformers.DeformableDetrImageProcessorPil(**_SQUARE),
    "rt_detr": lambda: RTDetrImageProcessorPil(**_SQUARE),
}


def coco(folder: Path, count: int, seed: int) -> None:
    """Pictures of two sizes with a file of COCO's beside them, as labelling tools write them."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(seed)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for i in range(count):
        wide, high = (48, 40) if i % 2 else (40, 48)
        pixels = drawn.integers(0, 60, (high, wide, 3), dtype=np.uint8)
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": wide, "height": high})
        for k in range(i % 3):
            w, h = (8, 8) if k else (16, 6)
            x, y = (int(drawn.integers(0, m)) for m in (wide - w, high - h))
            pixels[y : y + h, x : x + w] = 200 if k else (200, 40, 40)
            one = {"id": len(annotations), "image_id": 10 + i, "category_id": 3 if k else 7, "bbox": [x, y, w, h]}
            annotations.append({**one, "area": w * h, "iscrowd": 0})
        Image.fromarray(pixels).save(folder / f"{i}.png")
    kinds = [{"id": 3, "name": "block"}, {"id": 7, "name": "bar"}]
    told = {"images": images, "annotations": annotations, "categories": kinds}
    (folder / "_annotations.coco.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each kind with three classes, and a folder of splits with two others."""
    made = tmp_path_factory.mktemp("boxes")
    coco(made / "rows" / "train", 6, 0)
    coco(made / "rows" / "valid", 3, 1)
    for name, reader in READERS.items():
        detecting.make(name, num_labels=3).save_pretrained(made / name)
        reader().save_pretrained(made / name)
    return made


def ran(folder: Path, base: str, method: Any, out: str, **more: Any) -> Path:
    recipe = {
        "model": f"./{base}",
        "task": "object-detection",
        "data": {
            "train": {"path": "rows", "split": "train"},
            "eval": {"path": "rows", "split": "validation"},
            "labels": NAMES,
        },
        "methods": [method],
        "budget": {"steps": 3},
        "train": {
            "learning_rate": 0.02,
            "batch_tokens": 32,
            "precision": "float32",
            "threads": 1,
            "device": "cpu",
        },
        "measurement": {"strengths": [1]},
        **more,
    }
    (folder / f"{out}.yaml").write_text(json.dumps(recipe))
    return run(folder / f"{out}.yaml", out=folder / out, quiet=True).folder


def with_lora(folder: Path, base: str) -> Path:
    """The folder of a base's run with low-rank changes, which is made if it is not there."""
    there = folder / f"{base}-lora"
    return there if there.exists() else ran(folder, base, {"lora": {"rank": 2}}, there.name)


def said(model: Any, reader: Any, folder: Path) -> torch.Tensor:
    """What a model says of the evaluated pictures, one by one, with its own processor, as anybody runs it."""
    out = list[torch.Tensor]()
    for i in range(3):
        picture = Image.open(folder / "rows" / "valid" / f"{i}.png")
        given = reader(images=picture, return_tensors="pt")
        with torch.no_grad():
            answer = model.eval()(pixel_values=given["pixel_values"])
        out += [answer.logits.flatten(), answer.pred_boxes.flatten()]
    return torch.cat(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "base, method", [("yolos", "full"), *((name, {"lora": {"rank": 2}}) for name in READERS)], ids=str
)
def test_what_trains_goes_out_and_plain_transformers_says_the_same(base: str, method: Any, folder: Path) -> None:
    made = ran(folder, base, method, f"{base}-{method if isinstance(method, str) else 'lora'}")
    opened, out = open_run(made), export(made).folder
    reader = AutoImageProcessor.from_pretrained(out, backend="pil")
    back = AutoModelForObjectDetection.from_pretrained(out)
    assert back.config.id2label == dict(enumerate(NAMES)) and type(reader) is type(READERS[base]())
    assert agrees(said(opened.adapted.outer, reader, folder), said(back, reader, folder))
    base_itself = AutoModelForObjectDetection.from_pretrained(folder / base, num_labels=2, ignore_mismatched_sizes=True)
    assert not agrees(said(base_itself, reader, folder), said(back, reader, folder))
    report = Report.load(made)
    assert report.target is not None and report.target.metric == "map" and report.target.fresh_head
    assert report.target.commonest is None and report.target.after is not None
    assert 0 <= (report.target.after.low or 0) <= report.target.after.value <= (report.target.after.high or 0) <= 1
    assert [o.metric for o in report.target.others[:3]] == ["map_50", "map_75", "mar_100"]
    assert {o.name for o in report.target.others[3:]} == set(NAMES)
    assert report.drift is not None and report.drift.measure == "1-cka"


def test_answers_are_those_of_the_models_own_processors(folder: Path) -> None:
    """Boxes, classes and scores of the run's rows, beside transformers' own post-processing of its own pictures."""
    for base in READERS:
        made = with_lora(folder, base)
        rows = [json.loads(line) for line in (made / "rows.jsonl").read_text().splitlines()]
        opened, reader = open_run(made), READERS[base]()
        for i, row in enumerate(sorted(rows, key=lambda r: r["id"])):
            picture = Image.open(folder / "rows" / "valid" / f"{i}.png")
            given = reader(images=picture, return_tensors="pt")
            with torch.no_grad():
                answer = opened.adapted.outer.eval()(pixel_values=given["pixel_values"])
            how = {"threshold": -1.0, "target_sizes": [picture.size[::-1]]}
            (theirs,) = reader.post_process_object_detection(answer, **how)
            order = theirs["scores"].argsort(descending=True, stable=True)
            ours = json.loads(row["tuned"])[: len(order)]  # RT-DETR's gives as many as it has proposals
            close = {"rtol": 1e-3, "atol": 2e-5}
            torch.testing.assert_close(torch.tensor([o[1] for o in ours]), theirs["scores"][order], **close)
            own, other = (np.array(boxes).sum(0) for boxes in ([o[2] for o in ours], theirs["boxes"]))
            assert np.allclose(own, other, rtol=1e-3, atol=0.1)
            assert Counter(o[0] for o in ours) == Counter(NAMES[k] for k in theirs["labels"].tolist())


def test_the_page_draws_boxes_side_by_side_and_says_them_in_short(folder: Path) -> None:
    made = with_lora(folder, "detr")
    text = (made / "report.html").read_text()
    assert "What is there, base, tuned" in text and text.count('alt="_annotations.coco.json:') == 3
    assert ">block" in text.replace("> ", ">")
    report = Report.load(made)
    assert report.answers and all(a.base and a.tuned and "[" not in a.base + a.tuned for a in report.answers)
    assert {a.reference for a in report.answers} <= {"nothing", "bar", "bar\nblock"}


def test_what_is_found_is_said_in_short() -> None:
    found = [["bar", 0.9, [0, 0, 1, 1]], ["block", 0.31, [0, 0, 1, 1]], ["bar", 0.2, [0, 0, 1, 1]]]
    row = {"id": "r", "base": json.dumps(found[2:]), "tuned": json.dumps(found)}
    row["reference"] = json.dumps([["bar", [0, 0, 1, 1]], ["block", [0, 0, 1, 1], True]])
    assert boxed_pictures.in_short(row) == {
        "id": "r",
        "base": "nothing\n(1 boxes below 0.3)",
        "tuned": "bar 0.90\nblock 0.31\n(1 boxes below 0.3)",
        "reference": "bar\nblock (a crowd)",
    }


def test_boxes_lie_on_the_page_where_they_are() -> None:
    pixels = np.zeros((3, 30, 60), np.uint8)
    fields = {"kind": "boxed", "flat": pixels.reshape(-1), "shape": [3, 30, 60], "side": [300, 150]}
    there = (["a"], np.array([[100.0, 50.0, 200.0, 100.0]]))
    nothing = ([], np.zeros((0, 4)))
    row = Row("r", "s", (), [1.0], fields=fields)
    drawn = boxed_pictures.side_by_side(row, [there, nothing], lambda name: (255, 0, 0))
    side = boxed_pictures.SIDE
    assert drawn.shape == (3, side // 2, 2 * side + 6)
    red = (drawn[0] == 255) & (drawn[1] == 0)
    rows, columns = (np.flatnonzero(red.any(axis)) for axis in (1, 0))
    assert (columns[0], columns[-1] + 1) == (50, 100) and (rows[0], rows[-1] + 1) == (25, 50)
    assert not red[rows[0] + 3 : rows[-1] - 3, columns[0] + 3 : columns[-1] - 3].any()


@pytest.mark.slow
def test_drift_of_a_head_that_is_kept_is_told_at_the_proposals(folder: Path) -> None:
    """A second run over an exported one: its head is the base's own; RT-DETR's proposals come from the picture."""
    for base, kind in (("yolos", "kl"), ("deformable_detr", "kl"), ("rt_detr", "1-cka")):
        if not (with_lora(folder, base) / "model").exists():
            export(with_lora(folder, base))
        again = ran(folder, f"{base}-lora/model", {"lora": {"rank": 2}}, f"{base}-again")
        report = Report.load(again)
        assert report.target is not None and not report.target.fresh_head
        assert report.drift is not None and report.drift.measure == kind and report.drift.value.value > 0
        pair = measured(folder, f"{base}-lora/model", f"{base}-again")
        assert pair.drift is not None and pair.drift.measure == {"kl": "kl"}.get(kind, "1 - linear CKA")
        assert pair.drift.value.value == pytest.approx(report.drift.value.value, rel=1e-3)


@pytest.mark.slow
def test_drift_between_other_detectors_is_told_by_features(folder: Path) -> None:
    """Proposals of two kinds of model do not belong together, and a head that was just drawn proposes nothing."""
    for base in ("yolos", "deformable_detr"):
        if not (with_lora(folder, base) / "model").exists():
            export(with_lora(folder, base))
    for first, second in (("yolos-lora/model", "deformable_detr-lora/model"), ("yolos", "yolos-lora")):
        pair = measured(folder, first, second)
        assert pair.drift is not None and pair.drift.measure == "1 - linear CKA" and pair.drift.value.value > 0


def measured(folder: Path, first: str, second: str) -> Pair:
    """Two sides on the evaluated pictures, as `tunewright measure` has them; a run's rows are its own."""
    data = [] if (folder / second / "report.json").exists() else [str(folder / "rows" / "valid")]
    return measure(Request([str(folder / first)], [str(folder / second)], data, task="object-detection"))


def test_one_class_is_enough(folder: Path) -> None:
    told = json.loads((folder / "rows" / "train" / "_annotations.coco.json").read_text())
    told["annotations"] = [a for a in told["annotations"] if a["category_id"] == 7]
    (folder / "rows" / "bars").mkdir()
    (folder / "rows" / "bars" / "bars.json").write_text(json.dumps(told))
    for i in range(6):
        (folder / "rows" / "bars" / f"{i}.png").write_bytes((folder / "rows" / "train" / f"{i}.png").read_bytes())
    data = {"train": "rows/bars/bars.json", "eval": "rows/bars/bars.json"}
    made = ran(folder, "yolos", {"lora": {"rank": 2}}, "bars", data=data)
    assert AutoModelForObjectDetection.from_pretrained(export(made).folder).config.id2label == {0: "bar"}


def test_an_objective_of_likelihoods_is_refused(folder: Path) -> None:
    with pytest.raises(MethodError, match="gives boxes that are matched with what is there"):
        ran(folder, "yolos", "stablemax", "refused")


def test_a_body_of_timm_is_refused(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    config = {"model_type": "detr", "architectures": ["DetrForObjectDetection"], "use_timm_backbone": True}
    (base / "config.json").write_text(json.dumps({**config, "backbone": "resnet50"}))
    (base / "model.safetensors").write_bytes((folder / "yolos" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="body is timm's 'resnet50'") as caught:
        ran(folder, str(base), {"lora": {"rank": 2}}, "timm", model=str(base))
    assert "no_timm" in (caught.value.remedy or "")


def test_a_processor_that_pads_to_a_size_is_refused(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in (folder / "yolos").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    YolosImageProcessorPil(size={"height": 32, "width": 32}, pad_size={"height": 40, "width": 40}).save_pretrained(base)
    with pytest.raises(ModelError, match="pad_size"):
        ran(folder, "yolos", {"lora": {"rank": 2}}, "padded", model=str(base))
