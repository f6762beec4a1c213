"""`check` of a sequence of tasks: every row is read, listed and counted once."""

from __future__ import annotations

import json

import yaml

from tunewright.planning.check import check_recipe


def test_a_bad_row_of_a_sequence_is_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    for part in ("train", "eval"):
        rows = [{"text": f"row {i} {part}", "label": f"class {i % 4}"} for i in range(24)]
        if part == "train":
            rows[5]["text"] = None
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tree = {"model": "nano-encoder", "task": "text-classification", "methods": ["full"], "budget": {"steps": 2}}
    tree |= {"data": {"train": "train.jsonl", "eval": "eval.jsonl"}, "tasks": {"by": "label", "count": 2}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    report = check_recipe(tmp_path / "r.yaml").report
    assert [p.where for p in report.problems] == ["train.jsonl:6"]  # the file, not the task, which has rows of both
    assert [s.role for s in report.sources] == ["train", "train", "eval", "eval"]
    tree["stages"] = [
        {"name": "one", "methods": tree.pop("methods"), "data": {"train": "train.jsonl"}, "budget": tree.pop("budget")}
    ]
    del tree["tasks"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    assert [s.role for s in check_recipe(tmp_path / "r.yaml").report.sources] == ["train", "eval", "train of one"]
