"""Whole runs of sequences whose methods keep feature extractors: what a report counts as held, and what goes on."""

from __future__ import annotations

import pytest
import torch

from tests import classifying
from tests.runs.test_sequenced import written
from tunewright.recipe import Recipe
from tunewright.runs.run import run

TASKS = {"by": "label", "count": 3, "order": ["fee", "card", "rate"]}  # carried as the methods ask


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    classifying.write_inputs(folder, train=12, test=6)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_report_counts_what_is_held_of_earlier_tasks(inputs):
    held = {}
    for name in ("der-expandable", "memo", "foster"):
        recipe = written(inputs, name, tasks=TASKS, methods=[{name: {"buffer_size": 3}}], budget={"steps": 2})
        done = run(Recipe.load(recipe), inputs / name, quiet=True).report
        held[name] = [after.held_bytes for after in done.sequence.after]
        whole = done.sequence.after[0].change_bytes  # all that makes features, once
    more = {n: [later - of[0] for later in of[1:]] for n, of in held.items()}
    for i in (0, 1):
        assert more["der-expandable"][i] == pytest.approx((i + 1) * whole, rel=0.1)
        assert (i + 1) * whole * 0.1 < more["memo"][i] < (i + 1) * whole * 0.7
        assert more["foster"][i] < whole * 0.1
