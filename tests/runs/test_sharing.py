"""What several processes read of a model is what one reads, each item once, and only the first asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import small
from tests.options import inputs, session_of
from tunewright.errors import DataError
from tunewright.machine.group import Group
from tunewright.measure.cost import Cost
from tunewright.measure.kept import check_predicts, losses_by_document
from tunewright.models import deltas as forms
from tunewright.runs import sharing
from tunewright.runs.meter import Meter
from tunewright.runs.run import run

__all__ = ["inputs"]


class Threads(Group):
    """Processes of a run as threads: they tell each other through memory."""

    def __init__(self, rank: int, size: int, common: dict[str, Any]):
        super().__init__(rank, size)
        self._common = common

    def _exchange(self, said: Any) -> list[Any]:
        barrier: threading.Barrier = self._common["barrier"]
        self._common[self.rank] = said
        barrier.wait(60)
        all_said = [self._common[rank] for rank in range(self.size)]
        barrier.wait(60)
        return all_said

    def told(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        import json

        return [json.loads(text) for text in self._exchange(json.dumps(values))]

    def from_first(self, tensors: Sequence[torch.Tensor]) -> None:
        sent = self._exchange(list(tensors))[0]
        for tensor, first in zip(tensors, sent, strict=True):
            tensor.copy_(first)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, int]]:
    """(thread, what, items) of everything that was read; no base is known from before."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    found: list[tuple[str, str, int]] = []

    def counting(what: str, reading: sharing.Reading) -> sharing.Reading:
        def of(meter: Meter, places: Sequence[int], **how: Any) -> Sequence[Any]:
            found.append((threading.current_thread().name, what, len(places)))
            return reading.of(meter, places, **how)

        return sharing.Reading(of, reading.known)

    monkeypatch.setattr(sharing, "READINGS", {n: counting(n, r) for n, r in sharing.READINGS.items()})
    return found


def meter_of(folder: Path, name: str, **changes: Any) -> Meter:
    """A meter of the same model and rows whoever makes it, its model moved where that can be dialled."""
    session = session_of(folder, name, measurement__few_shot=2, **changes)
    generator = torch.Generator().manual_seed(0)
    for site in session.adapted.structure.linear_sites()[:4]:
        A, B = (torch.randn(n, generator=generator) * 0.3 for n in ((2, site.in_features), (site.out_features, 2)))
        forms.attach(site, "d", forms.LowRank(A, B, 1.0))
    return Meter(session, Cost())


def work(meter: Meter) -> Callable[[], dict[str, Any]]:
    """Base, tuned model and a strength between, as a run reads them."""

    def all_of_it() -> dict[str, Any]:
        adapted = meter.session.adapted
        with adapted.at_strength(0.0):
            meter.prepare_base()
        with adapted.at_strength(1.0):
            tuned = meter.read()
        with adapted.at_strength(0.5):
            half = meter.read(choice=False, part=meter.part(), scores_only=True)
        return {"base": meter.base, "tuned": tuned, "half": half}

    return all_of_it


def together(meters: Sequence[Meter], helped: bool = True) -> dict[str, Any]:
    """What the first of several threads got."""
    common, results = {"barrier": threading.Barrier(len(meters))}, dict[str, Any]()

    def one(rank: int) -> None:
        meters[rank].sharing.group = Threads(rank, len(meters), common)
        try:
            results[f"p{rank}"] = meters[rank].sharing.lead(work(meters[rank]), helped=helped)
        except BaseException:
            common["barrier"].abort()
            raise

    threads = [threading.Thread(target=one, args=(rank,), name=f"p{rank}") for rank in range(len(meters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[f"p{rank}"] is None for rank in range(1, len(meters)))
    return results["p0"]


def shares(counted: Sequence[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """What was read -> thread -> how many items."""
    by: dict[str, dict[str, int]] = {}
    for thread, what, items in counted:
        by.setdefault(what, {}).setdefault(thread, 0)
        by[what][thread] += items
    return by


def same(one: Any, other: Any) -> None:
    for name in ("target", "choice", "few_shot", "probe", "commonest"):
        a, b = getattr(one, name), getattr(other, name)
        assert [(r.id, r.answer, r.reference) for r in a] == [(r.id, r.answer, r.reference) for r in b]
        assert [r.score for r in a] == pytest.approx([r.score for r in b], abs=1e-5)
    assert one.kept.keys() == other.kept.keys()
    for name, documents in one.kept.items():
        assert [d.id for d in documents] == [d.id for d in other.kept[name]]
        assert [d.nats for d in documents] == pytest.approx([d.nats for d in other.kept[name]], rel=1e-4)
    assert (one.drift is None) == (other.drift is None)
    if one.drift is not None:
        assert one.drift.values == pytest.approx(other.drift.values, abs=1e-5)
        assert one.drift.interval.value == pytest.approx(other.drift.interval.value, abs=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_several_read_what_one_reads_and_each_item_once(inputs: Path, counted: Any, size: int) -> None:
    changes = {"measurement__dial_rows": 5, "keep": ["keep.txt", "pack:facts"]}
    alone = work(meter_of(inputs, "alone", **changes))()
    once = {what: sum(by.values()) for what, by in shares(counted).items()}
    counted.clear()
    found = together([meter_of(inputs, f"of{size}-{rank}", **changes) for rank in range(size)])
    for name, readings in alone.items():
        same(readings, found[name])
    assert found["tuned"].drift.values != found["half"].drift.values and found["tuned"].drift.interval.value > 0.001
    by = shares(counted)
    assert set(by) == {"answers", "target", "few_shot", "kept", "drift", "pack"}
    for what, each in by.items():
        assert sum(each.values()) == once[what] and len(each) == size, (what, each)
        assert max(each.values()) - min(each.values()) <= 3, (what, each)


def test_others_wait_where_only_the_first_has_the_model(inputs: Path, counted: Any) -> None:
    found = together([meter_of(inputs, f"waits-{rank}") for rank in range(2)], helped=False)
    assert found["tuned"].drift.interval.value > 0.001 and {thread for thread, _, _ in counted} == {"p0"}


def test_rows_that_are_read_beside_one_another_are_not_shared_out(
    inputs: Path, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = [meter_of(inputs, f"beside-{rank}") for rank in range(2)]
    for meter in meters:
        meter.labels = None
        monkeypatch.setattr(meter.session.task, "couples", "batch", raising=False)
    found = together(meters)
    assert len(found["tuned"].target) == 8 and set(shares(counted)["target"]) == {"p0"}
    assert set(shares(counted)["kept"]) == {"p0", "p1"}


def test_a_share_of_texts_may_predict_nothing_but_not_all_of_them(inputs: Path) -> None:
    meter = meter_of(inputs, "nothing")
    s = meter.session
    row = replace(s.keep["keep"].rows[0], input_ids=[1], weights=[0.0])
    nothing = losses_by_document(meter.model, s.tokenizer, s.task, [row])
    assert [d.tokens for d in nothing] == [0]
    with pytest.raises(DataError, match="no document has a token to predict"):
        check_predicts(nothing)


def test_an_evaluation_while_training_is_shared_out_and_every_process_has_all_of_it(inputs: Path) -> None:
    meters = [meter_of(inputs, f"quick-{rank}") for rank in range(2)]
    alone = meters[0].quick(meters[0].rows)
    lately = dict.fromkeys(("loss", "exact_match"), [row.id for row in meters[0].rows])
    common, found = {"barrier": threading.Barrier(2)}, dict[int, Any]()

    def one(rank: int) -> None:
        meter = meters[rank]
        meter.sharing.group = Threads(rank, 2, common)
        found[rank] = meter.quick(meter.rows, together=True)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == {k: pytest.approx(v, rel=1e-5) for k, v in alone.items()}
    for meter in meters:
        assert {metric: [r.id for r in rows] for metric, rows in meter.lately.items()} == lately


@pytest.mark.parametrize("after, helped", [([], True), ([{"wise-ft": {"amount": 0.5}}], False)])
def test_others_help_with_base_and_tuned_model_but_not_with_what_comes_after_training(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, after: list[Any], helped: bool
) -> None:
    lead, asked = sharing.Sharing.lead, list[bool]()

    def noted(self: sharing.Sharing, work: Callable[[], Any], *, helped: bool = True) -> Any:
        asked.append(helped)
        return lead(self, work, helped=helped)

    monkeypatch.setattr(sharing.Sharing, "lead", noted)
    run(small.write_recipe(inputs, "led", after=after), out=inputs / f"led-{helped}", quiet=True)
    assert asked == [True, True, helped]
