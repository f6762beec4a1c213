"""The dial on a part of the rows reads what a reading of all has at these rows, and nothing is read twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import small, tiny
from tests.options import inputs, session_of
from tunewright.measure.cost import Cost
from tunewright.report.schema import Report
from tunewright.runs.meter import Meter
from tunewright.runs.parted import Part, spread
from tunewright.runs.run import run

__all__ = ["inputs"]


def moved(session: Any) -> Meter:
    """A meter that has read the base; the model is another one by now."""
    meter = Meter(session, Cost())
    meter.prepare_base()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in session.adapted.model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return meter


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Changes of the recipe that make it one for a classifier."""
    folder = tmp_path_factory.mktemp("classes")
    tiny.bert_classifier(labels=2).save_pretrained(folder / "bert")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "bert")
    rows = [{"text": f"card {w} {i}", "label": ["no", "yes"][i % 2]} for i, w in enumerate(small.WORDS)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    file = str(folder / "rows.jsonl")
    changes = {"task": "text-classification", "keep": [], "data": {"train": file, "eval": file}}
    return {**changes, "model": str(folder / "bert")}


def test_places_are_spread_over_all() -> None:
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 9) == [0, 1, 2] and spread(240, 60) == list(range(0, 240, 4))


@pytest.mark.parametrize("kind", ["answers", "classes", "cka"])
def test_a_part_reads_what_the_whole_has_there(
    inputs: Path, classified: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "cka":
        monkeypatch.setattr(Meter, "_own_head", lambda meter: None)
    changes = {} if kind == "answers" else classified
    meter = moved(session_of(inputs, kind, measurement__dial_rows=5, **changes))
    part, whole = meter.part(), meter.read()
    assert part is not None and part.rows == spread(len(meter.rows), 5) and whole.drift is not None
    some, same = meter.read(choice=False, part=part, scores_only=True), meter.restricted(whole, part)
    assert [(r.id, r.score) for r in some.target] == [(r.id, r.score) for r in same.target] and len(some.target) == 5
    assert some.drift is not None and same.drift is not None
    assert some.drift.values == pytest.approx(same.drift.values, abs=1e-5) and some.drift.name == same.drift.name
    assert some.drift.interval.value == pytest.approx(same.drift.interval.value, abs=1e-5)
    assert some.drift.interval.value != whole.drift.interval.value and some.drift.interval.n == len(part.drift)
    for name, documents in some.kept.items():
        assert len(documents) == len(part.kept[name]) < len(whole.kept[name])
        for a, b in zip(documents, same.kept[name], strict=True):
            assert a.id == b.id and a.nats == pytest.approx(b.nats, rel=1e-5)


def test_kept_texts_and_sequences_come_in_the_rows_share_and_all_rows_need_no_part(inputs: Path) -> None:
    meter = Meter(session_of(inputs, "share", measurement__dial_rows=4), Cost())
    meter.prepare_base()
    assert meter.part() == Part([0, 2, 4, 6], {"keep": [0, 1, 3]}, [0, 2])  # of 8, 5 and 4
    for most in (None, 8, 100):
        meter.spec = meter.spec.model_copy(update={"dial_rows": most})
        assert meter.part() is None
    meter.spec = meter.spec.model_copy(update={"dial_rows": 1})
    meter.figures_only(choices=False)
    assert meter.part() is None, "trials are compared on all rows"


def dialled(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Report, list[Any]]:
    read, parts = Meter.read, list[Any]()

    def noted(meter: Meter, **how: Any) -> Any:
        parts.append(how.get("part"))
        return read(meter, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "read", noted)
        file = small.write_recipe(folder, name, measurement__strengths=[0, 0.5, 1], **changes)
        return run(file, out=folder / name, quiet=True).report, parts


def test_base_and_tuned_are_not_measured_again(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read = dialled(inputs, "whole", monkeypatch)
    assert read == [None, None], "the tuned model and strength 0.5"
    base, _, tuned = whole.trade
    assert whole.target is not None and whole.drift is not None and base.drift is not None
    assert (base.target, tuned.target, tuned.drift) == (whole.target.before, whole.target.after, whole.drift.value)
    assert (base.drift.value, base.drift.low, base.drift.high, base.drift.n) == (0, 0, 0, 4)
    some, read = dialled(inputs, "some", monkeypatch, measurement__dial_rows=4)
    assert read[0] is None and read[1] == Part([0, 2, 4, 6], {"keep": [0, 1, 3]}, [0, 2]) and len(read) == 2
    assert [(s.strength, s.target.n, s.kept["keep"].n, s.drift.n) for s in some.trade] == [  # type: ignore[union-attr]
        (x, 4, 3, 2) for x in (0.0, 0.5, 1.0)
    ]
    assert (some.target, some.drift) == (whole.target, whole.drift)
