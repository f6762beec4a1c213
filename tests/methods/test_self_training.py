"""Pseudo-labels: the most likely class of a model and its probability, and a warm start on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import classifying, small
from tunewright.contract.records import Record
from tunewright.data.synthesize.self_training_as_pre_training import SelfTraining
from tunewright.errors import DataError
from tunewright.files import checkpoint
from tunewright.models.agreement import differing
from tunewright.runs.run import resume, run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pool")
    classifying.write_inputs(folder, head=3)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    # a label that the pool happens to have, and that is wrong, is not looked at
    pool = [{"text": r["text"]} | ({"label": "rate"} if i % 2 else {}) for i, r in enumerate(rows)]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, pool)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


def stages(select: list[Any], **changes: Any) -> list[dict[str, Any]]:
    data = {"train": "pool.jsonl", "synthesize": [{"self-training": {"model": "base"}}], "select": select}
    methods = [{"lora": {"rank": 4}}, "lora-plus"]
    return [
        {"name": "pool", "data": data, "methods": methods, "budget": {"steps": 4}} | changes,
        {"name": "task", "methods": methods, "budget": {"steps": 3}},
    ]


def made(folder: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, (folder / "made" / "pool.rows.jsonl").read_text().splitlines()))


def test_labels_are_transformers_most_likely_class_and_the_filter_takes_them_by_confidence(inputs: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(inputs / "base")
    model = AutoModelForSequenceClassification.from_pretrained(inputs / "base").eval()
    texts = [json.loads(line)["text"] for line in (inputs / "pool.jsonl").read_text().splitlines()]
    best = []
    for text in texts:
        with torch.no_grad():
            shares = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        best.append((classifying.LABELS[int(shares.argmax())], float(shares.max())))
    bar = sorted(p for _, p in best)[18]
    select = [{"threshold": {"least": bar - 1e-6}}]
    file = small.write_recipe(inputs, "r", **classifying.recipe(stages=stages(select), train__save_steps=1))
    run(file, inputs / "out", quiet=True)
    rows = made(inputs / "out")
    assert [r["text"] for r in rows] == texts and [r["label"] for r in rows] == [label for label, _ in best]
    assert [r["confidence"] for r in rows] == pytest.approx([p for _, p in best], abs=1e-5)
    lines = list(map(json.loads, (inputs / "out/selection/pool.jsonl").read_text().splitlines()[1:]))
    assert [x["rank"] is not None for x in lines] == [p >= bar for _, p in best]
    assert all(x["reason"] == f"confidence below {bar - 1e-6:g}" for x in lines if x["rank"] is None)
    # what is trained on next is the task's own rows, from what the pool's labels made
    report = json.loads((inputs / "out/report.json").read_text())
    assert report["cost"]["flops_by_phase"]["generation"] > 0


def test_a_run_that_is_stopped_ends_in_the_same_bits(inputs: Path) -> None:
    file = small.write_recipe(inputs, "s", **classifying.recipe(stages=stages([]), train__save_steps=1))
    run(file, inputs / "whole", quiet=True)
    kept, calls = checkpoint.save, [0]

    def dying(*given: Any, **named: Any) -> Any:
        kept(*given, **named)
        calls[0] += 1
        if calls[0] == 4:  # inside of the second stage
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="interrupted"):
        patch.setattr(checkpoint, "save", dying)
        run(file, inputs / "stopped", quiet=True)
    resume(inputs / "stopped", quiet=True)
    for stage in ("pool", "task"):
        ends = [checkpoint.read(inputs / n / "stages" / stage).tensors["trained"] for n in ("whole", "stopped")]
        assert not differing(*ends)
    assert made(inputs / "whole") == made(inputs / "stopped")


def test_a_record_stands_in_under_the_first_class_and_a_share_of_such_rows_is_no_validation(inputs: Path) -> None:
    record = Record({"text": "a"}, id="r")
    assert SelfTraining().stand_in(record, ("x", "y"))["label"] == "x" and "label" not in record
    changes = classifying.recipe(stages=stages([])[1:]) | {
        "data__train": "pool.jsonl",
        "data__synthesize": [{"self-training": {"model": "base"}}],
        "data__validation": 0.25,
    }
    with pytest.raises(Exception, match="a share of these rows is held out"):
        run(small.write_recipe(inputs, "v", **changes), inputs / "v", quiet=True)


def test_a_column_without_numbers_is_named(inputs: Path) -> None:
    changes = classifying.recipe(stages=stages([{"threshold": {"column": "text"}}]))
    with pytest.raises(DataError, match="which is no number"):
        run(small.write_recipe(inputs, "c", **changes), inputs / "c", quiet=True)
