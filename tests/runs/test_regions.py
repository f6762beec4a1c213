"""Runs of image-segmentation: changes of body and decoder, a new head alone, and what plain libraries read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

from tunewright.conformance.task_regions import SIDE, segformer
from tunewright.errors import MethodError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.models.agreement import agrees
from tunewright.report.schema import Report
from tunewright.runs.run import run

NAMES = ["ground", "road"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with three classes, and a folder of pictures with masks of two others."""
    made = tmp_path_factory.mktemp("regions")
    torch.manual_seed(0)
    segformer().save_pretrained(made / "base")
    SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(made / "base")
    drawn = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for kind in ("images", "masks"):
            (made / "rows" / split / kind).mkdir(parents=True)
        for i in range(count):
            mask = drawn.integers(0, 2, (2, 3)).repeat(5, 0).repeat(4, 1).astype(np.uint8)
            pixels = (mask[..., None] * 150 + drawn.integers(0, 60, (*mask.shape, 3))).astype(np.uint8)
            mask[0, 0] = 255
            Image.fromarray(pixels).save(made / "rows" / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(made / "rows" / split / "masks" / f"{i}.png")
    return made


def ran(folder: Path, out: str, method: Any, **train: Any) -> Path:
    recipe = {
        "model": "./base",
        "task": "image-segmentation",
        "data": {
            "train": {"path": "rows", "split": "train"},
            "eval": {"path": "rows", "split": "test"},
            "labels": NAMES,
        },
        "methods": [method],
        "budget": {"steps": 3},
        "train": {
            "learning_rate": 0.02,
            "batch_tokens": 4,
            "precision": "float32",
            "threads": 1,
            "device": "cpu",
            **train,
        },
        "measurement": {"strengths": [1]},
    }
    (folder / f"{out}.yaml").write_text(json.dumps(recipe))
    return run(folder / f"{out}.yaml", out=folder / out, quiet=True).folder


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=pixels()).logits


def test_low_rank_in_body_and_decoder_is_read_by_peft_and_transformers(folder: Path) -> None:
    targets = ["q_proj", "v_proj", *(f"linear_projections.{i}.proj" for i in range(4))]
    made = ran(folder, "lora", {"lora": {"rank": 2, "target_modules": targets}})
    opened = open_run(made)
    assert len(opened.adapted.deltas()) == 4 * 3
    told = logits_of(opened.adapted.outer)
    untouched = SegformerForSemanticSegmentation.from_pretrained(
        folder / "base", num_labels=2, ignore_mismatched_sizes=True
    )
    assert not agrees(told, logits_of(untouched))
    assert agrees(told, logits_of(SegformerForSemanticSegmentation.from_pretrained(export(made).folder)))
    assert agrees(told, logits_of(peft.PeftModel.from_pretrained(untouched, made / "adapter")))
    report = Report.load(made)
    assert report.target is not None and report.target.metric == "mean_iou" and report.target.fresh_head
    assert report.target.commonest is not None and 0 < report.target.commonest.value < 1
    assert [o.metric for o in report.target.others[:2]] == ["overall_accuracy", "mean_accuracy"]
    assert [o.name for o in report.target.others[2:]] == NAMES
    for shown in (report.target, *report.target.others):
        assert (
            shown.after is not None and 0 <= (shown.after.low or 0) <= shown.after.value <= (shown.after.high or 1) <= 1
        )
    assert report.drift is not None and report.drift.measure == "1-cka"


def test_the_page_shows_masks_side_by_side(folder: Path) -> None:
    text = (folder / "lora" / "report.html").read_text()
    assert "Picture, mask, base, tuned" in text and text.count('alt="test/images/') == 3
    assert "does not count" in text and "mean IoU on road" in text.lower().replace("iou", "IoU")


@pytest.mark.parametrize(
    "out, method, moved",
    [
        ("full", "full", lambda name: True),
        ("head", {"freeze-lower": {"blocks": 7}}, lambda name: name.startswith("decode_head.")),
        (
            "kernels",
            {"flora-tucker": {"mode_ranks": [2, 2, 1, 1], "target_modules": ["linear_fuse"]}},
            lambda name: "linear_fuse" in name or "classifier" in name,
        ),
    ],
)
def test_what_trains_goes_out_and_comes_back(out: str, method: Any, moved: Any, folder: Path) -> None:
    """All weights; the decoder's last parts and the head alone; a convolution's kernel by a low rank of its own."""
    made = ran(folder, out, method)
    opened = open_run(made)
    back = SegformerForSemanticSegmentation.from_pretrained(export(made).folder)
    assert agrees(logits_of(opened.adapted.outer), logits_of(back))
    base = SegformerForSemanticSegmentation.from_pretrained(folder / "base").state_dict()
    changed = {
        n for n, t in back.state_dict().items() if t.is_floating_point() and not torch.equal(t, base.get(n, t[:0]))
    }
    changed -= {n for n in changed if "running_" in n}
    assert changed and all(moved(n) for n in changed), sorted(n for n in changed if not moved(n))
    assert "decode_head.classifier.weight" in changed


def test_low_rank_beside_a_convolution_is_refused(folder: Path) -> None:
    with pytest.raises(MethodError, match="linear_fuse', which is a conv"):
        ran(folder, "refused", {"dora": {"rank": 2, "target_modules": ["linear_fuse"]}})
