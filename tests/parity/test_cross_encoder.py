"""text-ranking beside sentence-transformers: its losses on the same numbers, and our folders in its CrossEncoder.

Skipped where it is not installed (`pip install sentence-transformers`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.test_text_ranking import TASK, encoded, inputs, recipe  # noqa: F401
from tunewright.data.truncate import fit_length
from tunewright.finished.export import export
from tunewright.loading.load import load
from tunewright.runs.run import run

peer = pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 2}}]])
def test_a_folder_gives_its_class_the_same_numbers(inputs: Path, tmp_path: Path, methods: list[Any]) -> None:  # noqa: F811
    run(recipe(inputs, methods=methods, budget__steps=2), tmp_path / "out", quiet=True)
    export(tmp_path / "out", tmp_path / "model")
    theirs = peer.CrossEncoder(str(tmp_path / "model"), device="cpu")
    loaded = load(str(tmp_path / "model"), "text-ranking")
    rows = [json.loads(line) for line in (inputs / "test.jsonl").read_text().splitlines()]
    rows.append(
        {"query": "a red", "positive": "the quick brown fox jumps over the lazy dog " * 4, "negatives": ["dog"]}
    )
    own = []
    for row in rows:
        (read,) = fit_length(encoded(loaded.tokenizer, **row), loaded.tokenizer.model_max_length, "auto")
        with torch.no_grad():
            own.append(TASK.forward(loaded.model, TASK.collate([read])).scores)
    pairs = [(row["query"], passage) for row in rows for passage in (row["positive"], *row["negatives"])]
    said = theirs.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    torch.testing.assert_close(torch.cat([s for s in own if s is not None]), said, rtol=0, atol=1e-5)
