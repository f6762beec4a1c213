"""A run of a stream whose tasks come again: what is measured after each stage, and what it accumulates."""

from __future__ import annotations

import pytest
import torch

from tests import classifying
from tests.runs.test_sequenced import written
from tunewright.recipe import Recipe
from tunewright.report import page, terminal
from tunewright.runs.run import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurring")
    classifying.write_inputs(folder, train=24, test=15)
    tasks = {"by": "label", "recurring": {"tasks": 4, "values": 2, "share": 0.8, "seed": 1}}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        file = written(folder, tasks=tasks, methods=["full", {"er": {"buffer_size": 4}}], budget={"steps": 2})
        yield run(Recipe.load(file), folder / "out", quiet=True)
    torch.set_num_threads(threads)


def test_all_values_are_measured_after_each_stage_and_what_grew_is_told(finished):
    sequence = finished.report.sequence
    assert sequence.tasks == ["card", "fee", "rate"] and sequence.recurring == 4
    assert sequence.rows == ["base", "task-1", "task-2", "task-3", "task-4"]
    R = [[c.value for c in row] for row in sequence.matrix]
    means = [sum(row) / 3 for row in R]
    assert sequence.accuracy.value == pytest.approx(means[-1])
    assert sequence.accumulation.value == pytest.approx(means[-1] - means[1])
    assert sequence.forgetting is None and sequence.backward_transfer is None
    assert sequence.plain()["accumulation"] == sequence.accumulation.value
    assert [a.replayed_rows for a in sequence.after] == [0, 4, 4, 4]  # the method runs on it as on any sequence


def test_the_report_says_what_the_stream_is(finished):
    text = terminal.text(finished.report)
    assert "3 tasks that come again in 4 stages, the rows cut by label; drawn by seed 1." in text
    assert "accumulation, + is better" in text and "forgetting" not in text
    assert "3 tasks that come again in 4 stages" in page.html(finished.report)
