"""Two answers to a picture: both are read beside it, and an objective on pairs is what its formula says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import seeing
from tests.tasks.test_image_text_to_text import TASK, Reads, turns
from tunewright.contract.pairs import paired
from tunewright.measure.target import evaluate
from tunewright.runs.run import run


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Reads:
    return Reads(seeing.write_llava(tmp_path_factory.mktemp("pairs")))


def rows_of(reads: Reads) -> list[Any]:
    shown = [{"prompt": "fox", "chosen": "warm", "rejected": "a cold dog", "image": seeing.picture(0)}]
    asked = turns([None, "dog"])
    said = {name: [{"role": "assistant", "content": name}] for name in ("teal", "red")}
    shown.append({"prompt": asked, "chosen": said["teal"], "rejected": said["red"], "images": [seeing.picture(1)]})
    shown.append({"prompt": "fox", "chosen": "cold", "rejected": "warm"})
    return [reads.row(**columns).replace(id=f"r{i}") for i, columns in enumerate(shown)]


def log_prob(reads: Reads, **columns: Any) -> torch.Tensor:
    """The answer's log-probability by transformers' own forward of its row alone."""
    row = reads.row(**columns)
    batch = TASK.collate([row])
    given = {k: batch.inputs[k] for k in ("input_ids", "attention_mask", "pixel_values") if k in batch.inputs}
    said = torch.log_softmax(reads.loaded.model(**given).logits[0].float(), -1)
    at = [j for j, w in enumerate(row.weights) if w and j]
    return torch.stack([said[j - 1, row.input_ids[j]] for j in at]).sum()


def test_both_answers_are_read_beside_the_picture(reads: Reads) -> None:
    rows = rows_of(reads)
    assert rows[0].fields["kind"] == "pictured" and rows[0].fields["rejected_ids"] != list(rows[0].input_ids)
    batch = TASK.collate([paired(row) for row in rows])
    assert batch.inputs["pixel_values"].shape[0] == 4 and batch.inputs["input_ids"].shape[0] == 6
    with torch.no_grad():
        log_probs = TASK.forward(reads.loaded.model, batch).log_probs()
        wanted = [log_prob(reads, prompt="fox", completion=a, image=seeing.picture(0)) for a in ("warm", "a cold dog")]
    for side in (0, 1):
        found = log_probs[(batch.rows == 0) & (batch.fields["pair"] == side)].sum()
        torch.testing.assert_close(found, wanted[side], rtol=1e-5, atol=1e-5)
    hits = [r.score for r in evaluate(reads.loaded.model, reads.loaded.tokenizer, TASK, rows, "pair_accuracy")]
    assert hits[0] == float(wanted[0] > wanted[1])


def test_dpo_learns_which_answer_fits_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins at log 2, where policy and base agree, and ends with the fitting answer the likelier one."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    seeing.write_llava(tmp_path / "base")
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    for i in range(12):
        pixels = rng.integers(0, 60, (8, 8, 3))
        pixels[..., 2 * (i % 2)] += 150
        words = ("warm", "cold") if i % 2 == 0 else ("cold", "warm")
        rows.append({"prompt": "fox", "chosen": words[0], "rejected": words[1], "image": pixels.tolist()})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "rows.jsonl", "eval": "rows.jsonl", "max_length": 64},
        "methods": ["full", {"dpo": {"beta": 0.5}}],
        "train": {"learning_rate": 0.003, "batch_tokens": 200, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 24},
        "measurement": {"strengths": [1], "metric": "pair_accuracy"},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    report = run(tmp_path / "recipe.yaml", out=tmp_path / "out", quiet=True).report
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert next(r["loss"] for r in lines if "loss" in r) == pytest.approx(math.log(2), rel=1e-4)
    assert report.target.after.value == 1.0 > report.target.before.value
