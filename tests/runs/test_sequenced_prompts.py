"""A whole run of a sequence whose method owns what it trains: its wrapper goes on from task to task, through files."""

from __future__ import annotations

import pytest
import torch

from tests import classifying
from tests.runs.test_sequenced import written
from tunewright.errors import Interrupted, MethodError
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run
from tunewright.runs.work import Work
from tunewright.training.carry import earlier_of

TASKS = {"by": "label", "count": 3, "order": ["fee", "card", "rate"]}  # carried as the method asks


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    classifying.write_inputs(folder, train=12, test=6)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def recipe(folder, name, **changes):
    return written(folder, name, **{"tasks": TASKS, "methods": ["dualprompt"], "budget": {"steps": 2}, **changes})


@pytest.mark.slow
def test_killed_between_tasks_it_ends_with_the_same_rows_and_prompts(inputs, monkeypatch):
    whole = run(recipe(inputs, "whole"), inputs / "whole", quiet=True)
    assert whole.report.sequence.rows == ["base", "task-1", "task-2", "task-3"]
    left = earlier_of({n: whole.folder / "stages" / n for n in whole.report.sequence.tasks})
    assert [len(one.values["keys"]) for one in left] == [0, 1, 2]
    held = Work._measure_stage

    def stop(self, part):
        held(self, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "_measure_stage", stop)
    with pytest.raises(Interrupted):
        run(recipe(inputs, "killed"), inputs / "killed", quiet=True)
    monkeypatch.setattr(Work, "_measure_stage", held)
    again = resume(inputs / "killed", quiet=True)
    assert (again.folder / "rows.jsonl").read_bytes() == (whole.folder / "rows.jsonl").read_bytes()
    there = [earlier_of({"task-3": f / "stages" / "task-3"})[0].values for f in (whole.folder, again.folder)]
    assert all(torch.equal(there[0][n], there[1][n]) for n in ("general", "expert", "key", "experts", "keys"))


def test_a_sequence_that_forgets_to_carry_is_refused_before_it_trains(inputs):
    forgot = recipe(inputs, "folded", tasks={**TASKS, "carry": "fold"})
    with pytest.raises(MethodError, match="'dualprompt' of the stage 'task-1' wraps the model: it cannot be folded"):
        run(Recipe.load(forgot), inputs / "folded", quiet=True)
