"""Runs of a sequence of tasks: the matrix, what it is made of, and that it comes out the same after an interruption."""

from __future__ import annotations

import json

import pytest
import torch

from tests import classifying, small
from tunewright.errors import CheckpointError, Interrupted
from tunewright.recipe import Recipe
from tunewright.report import page, terminal
from tunewright.runs import intact
from tunewright.runs.run import resume, run
from tunewright.runs.work import Work


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    classifying.write_inputs(folder, train=24, test=15)
    (folder / "keep.jsonl").write_text((folder / "test.jsonl").read_text())
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def written(folder, name="r", **changes):
    tree = {
        "tasks": {"by": "label", "count": 3, "order": ["fee", "card", "rate"]},
        "methods": ["full"],
        "budget": {"steps": 4},
        "train__learning_rate": 1e-2,
        **changes,
    }
    import yaml

    file = small.write_recipe(folder, name, **classifying.recipe(**tree))
    tree = yaml.safe_load(file.read_text())
    del tree["stages"]
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.fixture(scope="module")
def finished(inputs):
    return run(written(inputs, "whole", keep=["keep.jsonl"]), inputs / "whole", quiet=True)


def test_every_task_is_measured_after_every_task(finished):
    report = finished.report
    sequence = report.sequence
    assert sequence.tasks == ["task-1", "task-2", "task-3"] and sequence.rows == ["base", *sequence.tasks]
    assert len(sequence.matrix) == 4 and all(c.n == 5 for row in sequence.matrix for c in row)
    R = [[c.value for c in row] for row in sequence.matrix]
    assert R[1][0] == 1 and R[3][2] == 1 and R[3][0] < 1  # one class a task: the last one is all that is said
    assert sequence.accuracy.value == pytest.approx(sum(R[3]) / 3)
    assert sequence.backward_transfer.value == pytest.approx((R[3][0] - R[1][0] + R[3][1] - R[2][1]) / 2)
    assert sequence.forgetting.value > 0.4 and report.target.after.value == pytest.approx(sum(R[3]) / 3)
    assert report.data.rows == 24


def test_what_was_to_be_kept_is_measured_after_each_task(finished):
    first, *_, last = finished.report.sequence.after
    assert first.kept["keep"].n == 15 and first.drift.value > 0 and first.seconds > 0 and first.change_bytes > 0
    assert last.kept["keep"].value == finished.report.kept[0].after.value
    assert last.drift.value == finished.report.drift.value.value


def test_the_report_shows_the_matrix_to_both_readers(finished):
    text = terminal.text(finished.report)
    assert "3 tasks, class-incremental, the rows cut by label; their order: as written." in text
    assert "forgetting, + is worse" in text and "after each stage" not in text
    shown = page.html(finished.report)
    assert 'class="matrix"' in shown and shown.count(' own"') == 3 and shown.count(' ahead"') == 6
    assert "At the end of 3 tasks accuracy is" in shown


def test_its_files_are_vouched_for(finished):
    assert "tasks/task-1.json" in finished.report.hashes
    assert not intact.check(finished.folder).beside


@pytest.mark.parametrize("when", ["before it is measured", "after"])
def test_killed_between_tasks_it_goes_on_to_the_same_matrix(inputs, finished, monkeypatch, when):
    out, held = inputs / f"killed-{when[:5]}", Work._measure_stage

    def stop(self, part):
        if when == "after":
            held(self, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "_measure_stage", stop)
    with pytest.raises(Interrupted):
        run(written(inputs, "killed", keep=["keep.jsonl"]), out, quiet=True)
    monkeypatch.setattr(Work, "_measure_stage", held)
    again = resume(out, quiet=True).report.sequence
    assert [a.model_copy(update={"seconds": 0}) for a in again.after] == [
        a.model_copy(update={"seconds": 0}) for a in finished.report.sequence.after
    ]
    assert again.model_copy(update={"after": []}) == finished.report.sequence.model_copy(update={"after": []})


def test_another_order_is_another_run(inputs, finished, monkeypatch, tmp_path):
    monkeypatch.setattr(Work, "_measure_stage", lambda self, part: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(Interrupted):
        run(written(inputs, "turned"), tmp_path / "turned", quiet=True)
    own = tmp_path / "turned" / "recipe.yaml"
    own.write_text(own.read_text().replace("as written", "sorted"))
    with pytest.raises(CheckpointError, match="changed since the run began"):
        resume(tmp_path / "turned", quiet=True)


def test_what_was_measured_cannot_be_altered_on_the_way(inputs, monkeypatch, tmp_path):
    held = Work._measure_stage
    calls = []

    def stop(self, part):
        held(self, part)
        calls.append(part)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "_measure_stage", stop)
    with pytest.raises(Interrupted):
        run(written(inputs, "altered"), tmp_path / "run", quiet=True)
    file = tmp_path / "run" / "tasks" / "task-1.json"
    file.write_text(file.read_text().replace("1.0", "0.0"))
    with pytest.raises(CheckpointError, match="what was measured after a task"):
        resume(tmp_path / "run", quiet=True)


def test_a_task_that_is_known_is_answered_among_its_classes(inputs):
    recipe = written(
        inputs,
        "known",
        tasks={"by": "label", "count": 2, "order": ["fee", "card", "rate"], "scenario": "task-incremental"},
        measurement__rows=6,
    )
    report = run(recipe, inputs / "known", quiet=True).report
    R = [[c.value for c in row] for row in report.sequence.matrix]
    assert [row[1] for row in R] == [1, 1, 1]  # of one class there is one answer
    assert [c.n for c in report.sequence.matrix[0]] == [3, 3]  # as many of each task
    rows = [json.loads(t) for t in (inputs / "known" / "rows.jsonl").read_text().splitlines()]
    assert {r["tuned"] for r in rows if r["reference"] != "rate"} <= {"fee", "card"}


def test_choices_in_training_see_no_task_to_come(inputs):
    from tunewright.runs.assemble import assemble

    session = assemble(Recipe.load(written(inputs, "held", data__validation=0.5)))
    seen = [{r.source for r in session.validation_for(part).rows} for part in session.stages]
    assert seen == [{"task-1"}, {"task-1", "task-2"}, {"task-1", "task-2", "task-3"}]
    assert [len(d.rows) for d in session.validation.sources] == [4, 4, 4]  # the share is of each task's rows
    held = {(r.source, r.id) for r in session.validation.rows}
    assert len(held) == 12 and not any((r.source, r.id) in held for part in session.stages for r in part.rows.rows)
    assert session.needs(session.stages[0]).rows["validation"] is session.validation_for(session.stages[0]).rows or (
        {r.source for r in session.needs(session.stages[0]).rows["validation"]} == {"task-1"}
    )


def test_rows_that_a_buffer_holds_of_earlier_tasks_are_counted(inputs):
    file = written(inputs, "kept-rows", methods=["full", {"er": {"buffer_size": 5}}])
    after = run(Recipe.load(file), inputs / "kept-rows", quiet=True).report.sequence.after
    assert [one.replayed_rows for one in after] == [0, 5, 5]


def test_a_plan_counts_what_is_measured_after_each_task(inputs, monkeypatch):
    from tunewright.planning import estimate, measuring_time
    from tunewright.runs.assemble import assemble

    monkeypatch.setattr(measuring_time, "_seconds", lambda work: 1.0)

    def between(name, **changes):
        return estimate.estimate(assemble(Recipe.load(written(inputs, name, **changes)))).between

    assert 0 < between("planned", keep=[]) < between("planned-keep", keep=["keep.jsonl"])
