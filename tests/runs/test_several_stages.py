"""Runs of several stages: rows of an earlier stage replayed, and the target on each task after each stage."""

from __future__ import annotations

import json

import pytest
import torch

from tests import small
from tests.options import session_of
from tunewright.errors import DataError, Interrupted
from tunewright.recipe import Recipe
from tunewright.report import terminal
from tunewright.runs.run import resume, run
from tunewright.runs.work import Work


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    small.write_inputs(folder, train=30, test=8)
    for name in ("one", "two"):
        for kind, count in (("train", 12), ("test", 6)):
            rows = [
                {"prompt": f"{' '.join(small.WORDS[: i % 9 + 1])} {name}", "completion": name} for i in range(count)
            ]
            (folder / f"{kind}-{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def stages(**second):
    def part(name):
        return {"name": name, "methods": ["lora"], "budget": {"steps": 3}, "data": {"train": f"train-{name}.jsonl"}}

    return [part("one"), {**part("two"), "data": {"train": "train-two.jsonl", **second}}]


def recipe(**changes):
    evaluated = [{"path": f"test-{n}.jsonl", "name": n} for n in ("one", "two")]
    return {
        "data__eval": evaluated,
        "keep": [],
        "measurement__strengths": [1.0],
        "measurement__few_shot": 0,
        "stages": stages(),
        **changes,
    }


def test_replay_takes_its_share_of_an_earlier_stages_rows(inputs):
    session = session_of(inputs, **recipe(stages=stages(replay={"stages.one": 0.25})))
    first, second = session.stages
    assert first.replay == {} and second.replayed == 0.25
    weights = session.cursor(second).weights
    assert weights["stages.one"] == pytest.approx(0.25) and len(weights) == 2
    drawn = session.cursor(second)
    prompts = {row.fields["reference"] for _ in range(6) for row, _ in drawn.next_batch()}
    assert prompts == {"one", "two"}


def test_rows_of_one_file_may_be_replayed_beside_themselves(inputs):
    same = [{**s, "data": {"train": "train-one.jsonl"}} for s in stages()]
    same[1]["data"] = {"train": "train-one.jsonl", "replay": {"stages.one": 0.5}}
    session = session_of(inputs, **recipe(stages=same))
    assert sorted(session.cursor(session.stages[1]).weights.values()) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("replay", "says"),
    [
        ({"stages.two": 0.1}, "comes no earlier"),
        ({"stages.oen": 0.1}, "earlier stages: stages.one"),
        ({"one": 0.1}, "write stages.one"),
    ],
)
def test_only_earlier_stages_can_be_replayed(inputs, replay, says):
    from tunewright.planning.check import check_recipe

    with pytest.raises(DataError, match=says):
        session_of(inputs, **recipe(stages=stages(replay=replay)))
    file = small.write_recipe(inputs, "refused", **recipe(stages=stages(replay=replay)))
    assert says in json.dumps(check_recipe(file).to_json(), default=str)


def test_the_first_stage_has_none_to_replay(inputs):
    with pytest.raises(DataError, match="this is the first stage"):
        session_of(inputs, **recipe(data__replay={"stages.one": 0.1}))


@pytest.fixture(scope="module")
def finished(inputs):
    return run(small.write_recipe(inputs, "whole", **recipe()), inputs / "whole", quiet=True)


def test_the_target_of_each_task_stands_after_each_stage(finished, capsys):
    report = finished.report
    assert set(report.target.tasks) == {"one", "two"} and report.target.tasks["one"].n == 6
    one, two = report.stages
    assert set(one.tasks) == set(two.tasks) == {"one", "two"}
    hits = [one.tasks["one"].value, two.tasks["one"].value, two.tasks["two"].value]
    assert sum(two.tasks[t].value * two.tasks[t].n for t in two.tasks) / 12 == pytest.approx(report.target.after.value)
    assert all(0 <= h <= 1 for h in hits) and report.cost.seconds["stages measured"] > 0
    text = terminal.text(report)
    assert "Exact match after each stage" in text
    assert "after each stage" in (finished.folder / "report.html").read_text().lower()


def test_measuring_after_a_stage_changes_no_bit_of_the_next(finished, inputs, monkeypatch):
    monkeypatch.setattr(Work, "_measure_stage", lambda self, part: None)
    bare = run(small.write_recipe(inputs, "bare", **recipe()), inputs / "bare", quiet=True)
    a, b = (sorted((d.folder / "stages" / "two").glob("*.safetensors")) for d in (finished, bare))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_a_run_of_one_stage_has_no_such_table(inputs):
    done = run(small.write_recipe(inputs, "single", **recipe(stages=stages()[:1])), inputs / "single", quiet=True)
    assert done.report.target.tasks == {} == done.report.stages[0].tasks
    assert "stages measured" not in done.report.cost.seconds and "after each stage" not in terminal.text(done.report)


@pytest.mark.parametrize("when", ["before it is measured", "after"])
def test_what_was_measured_after_a_stage_survives_an_interruption(inputs, finished, monkeypatch, when):
    file, out = small.write_recipe(inputs, "stopped", **recipe()), inputs / f"stopped-{when[:6].strip()}"
    held = Work._measure_stage

    def stop(self, part):
        if when == "after":
            held(self, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "_measure_stage", stop)
    with pytest.raises(Interrupted):
        run(Recipe.load(file), out, quiet=True)
    monkeypatch.undo()
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(inputs / "cache"))
    again = resume(out, quiet=True)
    assert [s.tasks for s in again.report.stages] == [s.tasks for s in finished.report.stages]


def test_figures_are_told_as_they_are_known(inputs, capsys):
    run(small.write_recipe(inputs, "told", **recipe(measurement__strengths=[0.5, 1.0])), inputs / "told")
    lines = [x for x in capsys.readouterr().err.splitlines() if x.split(":")[0].split()[0] in WHAT]
    kinds = [x.split(":")[0] for x in lines]
    at = {k: kinds.index(k) for k in ("base", "training 'one'", "after 'one'", "tuned", "strength 0.5")}
    assert sorted(at, key=at.get) == list(at)
    assert "exact match" in lines[0] and "on 12 rows" in lines[0] and " to " in lines[0]


WHAT = ("base", "training", "after", "tuned", "strength")


def test_the_report_names_what_every_stage_read(inputs):
    changes = recipe(stages=stages(replay={"stages.one": 0.2, "test-one.jsonl": 0.1}))
    report = run(small.write_recipe(inputs, "sources", **changes), inputs / "sources", quiet=True).report
    found = [(s.path, s.role, s.rows) for s in report.data.sources]
    assert found[:3] == [
        ("train-one.jsonl", "train", 12),
        ("train-two.jsonl", "train", 12),
        ("test-one.jsonl", "replay", 6),
    ]
    assert [role for _, role, _ in found[3:]] == ["eval", "eval"]
