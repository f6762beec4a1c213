"""Entry points of other packages: what is wrong with one is said once, and the others go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.test_third_party_task import forget
from tunewright import tasks
from tunewright.catalogue import listing
from tunewright.contract import RowProblem, Shape, metric
from tunewright.data import shapes
from tunewright.errors import MethodError, TunewrightError
from tunewright.machine import installed
from tunewright.measure import target

KINDS = ("tasks", "shapes", "metrics", "claims")
PIECES = """
from tunewright.contract import Metric, Shape, Task

class Empty(Task):
    name = "empty"
    auto_class = "AutoModelForTokenClassification"

class Named(Task):
    name = "other"
    auto_class = "AutoModelForTokenClassification"
    def encode(self, record, tokenizer, options): ...
    def collate(self, rows, packed=False, *, epochs=None, seed=0): ...
    def forward(self, model, batch, *, hidden=False): ...

class Loads(Named):
    name = "loads"
    auto_class = "AutoModelForMiracles"

SHAPE = Shape("odd", ("odd",), lambda row: row["even"])
METRIC = Metric("generated")
"""
WRONG = {
    "a name that is taken": ("tasks", "text-generation", "pieces:Named", ("takes a task's name", "Tunewright itself")),
    "no module": ("tasks", "gone", "nowhere:Task", ("'gone' of wrong 1.0 cannot be imported", "nowhere")),
    "no attribute": ("tasks", "named", "pieces:Namde", ("has no 'Namde'", "did you mean 'Named'")),
    "no task": ("tasks", "shape", "pieces:SHAPE", ("is no Task",)),
    "several tasks": ("tasks", "several", "pieces", ("3 Task classes", "module:Class")),
    "a task that is not whole": ("tasks", "empty", "pieces:Empty", ("does not define encode, collate, forward",)),
    "a task of another name": ("tasks", "named", "pieces:Named", ("calls itself 'other'",)),
    "a class that transformers lacks": ("tasks", "loads", "pieces:Loads", ("AutoModelForMiracles",)),
    "an error of its own": ("tasks", "raises", "raises:Task", ("raises.py:2", "ValueError", "math domain error")),
    "no shape": ("shapes", "odd", "pieces:METRIC", ("is no Shape with columns",)),
    "a taken shape": ("shapes", "chat", "pieces:SHAPE", ()),
    "no metric": ("metrics", "odd", "pieces:SHAPE", ("is no Metric",)),
    "a taken metric": ("metrics", "loss", "pieces:METRIC", ("takes a metric's name",)),
    "a metric without scores": ("metrics", "odd", "pieces:METRIC", ("does not say how its rows are scored",)),
    "no claim": ("claims", "odd", "pieces", ("is no module with CLAIM",)),
    "a taken claim": ("claims", "hft", "pieces", ("takes a claim's name",)),
}


def asked_for(kind: str, name: str) -> Any:
    from tunewright.claims import claim
    from tunewright.loading.config import _serves

    if kind == "tasks":
        return _serves(tiny.bert().config, tasks.get_task(name), Path("base"))
    return {"shapes": shapes.added, "metrics": target.get_metric, "claims": claim.load}[kind](name)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_piece_is_said_once_and_the_others_go_on(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, value, says = WRONG[case]
    (tmp_path / "pieces.py").write_text(PIECES)
    (tmp_path / "raises.py").write_text("import math\nx = math.sqrt(-1)\n")
    good = {"shapes": {"fits": "good:SHAPE"}, "metrics": {"fits": "good:METRIC"}}
    (tmp_path / "good.py").write_text(
        "from tunewright.contract import Metric, Shape\n"
        "SHAPE = Shape('fits', ('fits',))\nMETRIC = Metric('predicted')\n"
    )
    groups = {f"tunewright.{k}": {**good.get(k, {}), **({name: value} if k == kind else {})} for k in KINDS}
    entries = "".join(f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in p.items()) for g, p in groups.items())
    info = tmp_path / "wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    try:
        with pytest.raises(TunewrightError) as caught:
            asked_for(kind, name)
        assert all(part in str(caught.value) for part in says), str(caught.value)
        assert tasks.get_task("fill-mask").name == "fill-mask" and target.get_metric("f1").compare is not None
        assert target.get_metric("fits").kind == "predicted"
        assert shapes.canonical({"fits": 1}, {})[1] == "fits"
        assert shapes.canonical({"messages": []}, {})[1] == "chat"
        with pytest.raises(RowProblem, match="no known shape") as unknown:
            shapes.canonical({"none": 1}, {})
        assert ("wrong 1.0" in unknown.value.reason) == (kind == "shapes")
        with pytest.raises(TunewrightError, match="a bert model does not do image-classification") as other:
            asked_for("tasks", "image-classification")
        assert "it does: fill-mask" in str(other.value)
        assert name in listing.table()
    finally:
        for module in ("pieces", "raises", "good"):
            sys.modules.pop(module, None)
        monkeypatch.undo()
        forget()


def test_two_packages_with_one_name_are_both_refused_and_one_seen_twice_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dist:
        def __init__(self, name: str) -> None:
            self.name, self.version = name, "1"

    class Point:
        def __init__(self, value: str, dist: str) -> None:
            self.name, self.module, self.attr, self.dist = "same", value, "X", Dist(dist)

    found = [Point("json", "first"), Point("json", "first"), Point("csv", "second")]
    monkeypatch.setattr(installed.importlib.metadata, "entry_points", lambda group: found[:2])
    forget()
    assert not installed.points(installed.METRICS)["same"].clash
    monkeypatch.setattr(installed.importlib.metadata, "entry_points", lambda group: found)
    forget()
    try:
        with pytest.raises(MethodError, match="'same' of second 1 takes a metric's name that first 1 has"):
            target.get_metric("same")
    finally:
        monkeypatch.undo()
        forget()


def test_a_packages_code_is_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("whole/__init__.py", "whole/sub/__init__.py", "whole/sub/deep.py", "whole/other.py", "alone.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, count in (("whole", 4), ("whole.sub", 4), ("whole.sub.deep", 4), ("whole.other", 4), ("alone", 1)):
        files_of = installed.Point(installed.TASKS, "x", module, "", "d", "1").files()
        assert len(files_of) == count, (module, files_of)
    for module in ("whole", "whole.sub"):
        sys.modules.pop(module, None)


def test_every_own_metric_is_listed() -> None:
    assert tuple(target.METRICS) == metric.OWN


def test_a_shape_that_fails_on_a_row_is_a_problem_of_that_row(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Shape("odd", ("odd",), lambda row: row["even"])
    point = installed.Point(installed.SHAPES, "odd", "pieces", "SHAPE", "wrong", "1.0")
    monkeypatch.setattr(installed, "points", lambda group: {"odd": point} if group == installed.SHAPES else {})
    monkeypatch.setattr(shapes, "added", lambda name: broken)
    with pytest.raises(RowProblem, match="the shape 'odd' of wrong 1.0 failed on it: KeyError: 'even'"):
        shapes.canonical({"odd": 1}, {})
