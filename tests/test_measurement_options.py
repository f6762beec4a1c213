"""Every field of `measurement` and `keep` changes a run. One without a case here fails the test at the end."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.options import inputs, session_of
from tunewright.measure.cost import Cost
from tunewright.recipe import Keep, MeasureSpec, StageSpec
from tunewright.report.schema import Report
from tunewright.runs import track
from tunewright.runs.meter import Meter
from tunewright.runs.run import run

__all__ = ["inputs"]


@pytest.fixture(scope="module")
def reports(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Two whole runs that differ in every field of `evaluation` and `keep`."""
    out, trackers = tmp_path_factory.mktemp("runs"), ["tensorboard"] if util.find_spec("tensorboard") else []
    changed = {
        "max_new_tokens": 2,
        "strengths": [0.25, 1.0],
        "dial_rows": 3,
        "drift_sequences": 3,
        "drift_tokens": 4,
        "few_shot": 1,
        "rows": 5,
    }
    keep = [{"data": "keep.txt", "name": "general", "limit": 2}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track, "LIMIT", 300.0)  # tried is whether a tracker is asked, not how long its import takes
        made = {
            "plain": run(small.write_recipe(inputs), out=out / "a", quiet=True),
            "changed": run(
                small.write_recipe(inputs, measurement=changed, keep=keep, train__report_to=trackers),
                out=out / "b",
                quiet=True,
            ),
        }
    assert bool(trackers) == bool(list((out / "b").rglob("events.out.tfevents*"))) and not list(
        (out / "a").rglob("events.out.tfevents*")
    )
    return {name: result.report for name, result in made.items()}


EVALUATED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "max_new_tokens": lambda r: (
        max(len(a.base) for a in r["changed"].answers) < max(len(a.base) for a in r["plain"].answers)
    ),
    "strengths": lambda r: (
        [s.strength for s in r["plain"].trade] == [0.5, 1.0]
        and [s.strength for s in r["changed"].trade] == [0.0, 0.25, 1.0]
    ),
    "dial_rows": lambda r: [{s.target.n for s in r[k].trade} for k in ("plain", "changed")] == [{8}, {3}],
    "drift_sequences": lambda r: (r["plain"].drift.sequences, r["changed"].drift.sequences) == (4, 3),
    "drift_tokens": lambda r: r["changed"].drift.tokens <= 3 * 4 and r["plain"].drift.tokens > 3 * 4,
    "few_shot": lambda r: (r["plain"].target.shots, r["changed"].target.shots) == (3, 1),
    "rows": lambda r: (r["plain"].target.n, r["changed"].target.n) == (8, 5),
}
KEPT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "data": lambda r: len(r["plain"].kept) == 1 and r["plain"].kept[0].before is not None,
    "name": lambda r: (r["plain"].kept[0].name, r["changed"].kept[0].name) == ("keep", "general"),
    "limit": lambda r: (r["plain"].kept[0].n, r["changed"].kept[0].n) == (5, 2),
    "metric": lambda r: r["plain"].kept[0].metric == Keep(data="keep.txt").metric,
}


@pytest.mark.parametrize("field", EVALUATED)
def test_a_field_of_evaluation_changes_the_report(field: str, reports: dict[str, Report]) -> None:
    assert EVALUATED[field](reports), field


def test_the_metric_is_the_recipes(inputs: Path) -> None:
    assert [Meter(session_of(inputs, measurement__metric=m), Cost()).metric for m in ("auto", "loss")] == [
        "exact_match",
        "loss",
    ]


@pytest.mark.parametrize("field", KEPT)
def test_a_field_of_keep_changes_the_report(field: str, reports: dict[str, Report]) -> None:
    assert KEPT[field](reports), field


def test_the_rows_measured_are_those_of_the_split(inputs: Path) -> None:
    file = small.write_recipe(inputs, "split", measurement__split="validation", data__validation="25%")
    report = run(file, out=inputs / "split", quiet=True).report
    assert report.answers and {a.id.split(":")[0] for a in report.answers} == {"train.jsonl"}


def test_every_field_of_evaluation_and_keep_has_a_case() -> None:
    elsewhere = {"metric", "split", "num_beams", "along"}  # tests/tasks/test_text2text.py, tests/runs/test_along.py
    elsewhere |= {"num_inference_steps", "guidance_scale"}  # tests/tasks/test_image_generation_runs.py
    elsewhere |= {"temperature", "top_k", "top_p"}  # tests/tasks/test_next_scale.py
    elsewhere |= {"environment"}  # tests/tasks/test_reinforcement_learning_episodes.py
    assert set(EVALUATED) | elsewhere == set(MeasureSpec.model_fields) and set(KEPT) == set(Keep.model_fields)
    stage = {"name", "start", "carry", "each", "rounds", "round", "data", "methods", "budget", "train"}
    assert (
        set(StageSpec.model_fields) == stage
    )  # each and rounds: tests/recipe/test_sequence.py, tests/runs/test_made.py
