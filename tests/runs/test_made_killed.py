"""Commands that end while rows are generated, by signals and a full disk: nothing that was written is lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.resuming import commands
from tests.running import Commands
from tunewright import errors
from tunewright.files import checkpoint
from tunewright.models.agreement import differing

__all__ = ["commands"]

JUDGED: list[Any] = [
    {"s3ft": {"samples": 2, "temperature": 1.0, "max_new_tokens": 6, "right": 0.01}},
    {"exact-answer": {"partial": 0.9}},
]
ENDS = {
    "kill": -signal.SIGKILL,
    "term": errors.Interrupted.code,
    "int": errors.Interrupted.code,
    "full": errors.FolderError.code,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    small.write_inputs(folder)
    small.write_recipe(folder, data__synthesize=JUDGED, measurement__strengths=[1.0])
    assert commands(folder, ["run", "r.yaml", "--out", "whole"]).code == 0
    return folder / "whole"


@pytest.mark.parametrize(("do", "call"), [("kill", 3), ("term", 2), ("int", 4), ("full", 2)])
def test_a_command_that_ends_inside_a_round_is_gone_on_with(
    whole: Path, commands: Commands, do: str, call: int
) -> None:
    fault = {"at": "tunewright.contract.writer:Journal.add", "call": call, "do": do}
    done = commands(whole.parent, ["run", "r.yaml", "--out", do], fault)
    assert done.code == ENDS[do] and "Traceback" not in done.stderr, done.stderr
    left = whole.parent / do
    batches = (left / "made" / "main.replies.jsonl").read_text().splitlines()
    assert len(batches) == call - 1 < len((whole / "made" / "main.replies.jsonl").read_text().splitlines())
    assert commands(whole.parent, ["resume", do]).code == 0
    for name in ("main.jsonl", "main.rows.jsonl", "main.replies.jsonl"):
        assert (left / "made" / name).read_bytes() == (whole / "made" / name).read_bytes()
    ends = [checkpoint.read(run / "stages" / "main").tensors["trained"] for run in (whole, left)]
    assert not differing(*ends)
    costs = [json.loads((run / "report.json").read_text())["cost"]["flops_by_phase"] for run in (whole, left)]
    assert costs[0] == costs[1]
