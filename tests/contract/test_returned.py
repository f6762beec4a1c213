"""What comes back from methods and is not what was asked for: one message that names the method, its slot, what came
and what is expected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.loop import Rows
from tests.test_rollouts import Told
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Loss
from tunewright.contract.found import Found
from tunewright.contract.made import Made
from tunewright.contract.method import Choice, Method, State, call
from tunewright.contract.metric import Metric
from tunewright.contract.records import Record
from tunewright.contract.returned import CHECKS, check_returned, told
from tunewright.contract.selected import Selected
from tunewright.contract.slot import SLOTS
from tunewright.errors import MethodError
from tunewright.measure.returned import checked
from tunewright.runs.making import made_by
from tunewright.runs.selecting import checked as selected
from tunewright.training.rollouts import Rollout

WEIGHTS = {"a": torch.zeros(2), "b": torch.zeros(3)}
ROW = Rows(1).rows[0]
OFFERED: dict[str, dict[str, Any]] = {
    "gradient": {"parameters": WEIGHTS, "gradients": WEIGHTS},
    "update": {"changes": WEIGHTS},
    "rollout": {"prompts": [ROW]},
}
TOLD_ONLY = {"step", "begin_task", "end_task", "after_step", "example", "row"}
"""Slots that take nothing back, and those whose answer is checked with the row that it is of."""
MAY_BE_NONE = {"prepare", "attach", "batch", "gradient", "update", "mixture"}
WRONG: dict[str, list[Any]] = {
    "prepare": [1, [1], (None,), "x"],
    "choose": [
        ["a"],
        Choice(names=None),  # type: ignore[arg-type]
        Choice(names="abc"),
        Choice(names=(1,)),  # type: ignore[arg-type]
        Choice(names=(), redraw_every=0),
        Choice(names=(), redraw_every="x"),  # type: ignore[arg-type]
        Choice(names=(), entries={"a": [1]}),  # type: ignore[dict-item]
    ],
    "rollout": [
        [],
        Rollout(None),  # type: ignore[arg-type]
        Rollout([ROW]),  # type: ignore[list-item]
        Rollout([(1, ROW)]),
        Rollout([(0, 3)]),  # type: ignore[list-item]
        Rollout([(0, ROW)], reuse=0),
    ],
    "reward": [3.0, "abc", {"a": 1.0}, torch.tensor(1.0)],
    "objective": [torch.zeros(3), 0.0, Loss(None), Loss(1.0), Loss(torch.zeros(2), "w")],  # type: ignore[arg-type]
    "penalty": [0.0, torch.zeros(2)],
    "gradient": [[], {"a": None}, {"c": torch.zeros(2)}, {"a": torch.zeros(3)}, {1: torch.zeros(2)}],
    "optimizer": [1, [1]],
    "rates": [1.0, {"a": None}, {"a": "1"}],
    "update": [[], {"a": torch.zeros(2)}, {**WEIGHTS, "a": torch.zeros(1)}, {**WEIGHTS, "a": 1.0}],
    "schedule": ["1", [1.0], float("nan"), {"": None}],
    "mixture": [0.5, [0.5], {"a": None}, {"a": float("inf")}],
    "average": [1, {"a": 1.0}],
    "synthesize": [3, "abc", {"a": 1}],
    "select": [3, "abc", {"a": 1}],
}
RIGHT: dict[str, list[Any]] = {
    "choose": [Choice(names=("a",)), Choice(names=(), redraw_every=2, entries={"a": torch.tensor([0])})],
    "rollout": [Rollout([(0, ROW)]), Rollout([])],
    "reward": [[1.0], (1.0,), torch.zeros(2), iter([1.0])],
    "objective": [Loss(torch.zeros(2)), Loss(torch.zeros(2), torch.ones(2)), Loss(torch.zeros(2), 1.0)],  # type: ignore[arg-type]
    "penalty": [torch.zeros(())],
    "gradient": [WEIGHTS, {}],
    "optimizer": [torch.optim.SGD([torch.zeros(1)]), [torch.optim.SGD([torch.zeros(1)])]],
    "rates": [{}, {"a": 1, "b": 0.5}],
    "update": [WEIGHTS],
    "schedule": [1, 0.5, {"": 1.0}, torch.tensor(0.5)],
    "mixture": [{"a": 1}],
    "average": [WEIGHTS],
    "synthesize": [[], iter(())],
    "select": [[], ([0], [1.0]), torch.tensor([0]), Selected([0])],
    "merge": [torch.zeros(2)],
}
CASES = [(slot, value) for slot, values in WRONG.items() for value in values]
CASES += [(slot, object()) for slot in SLOTS if slot not in TOLD_ONLY]
CASES += [(slot, None) for slot in SLOTS if slot not in TOLD_ONLY | MAY_BE_NONE]


def method(slot: str, value: Any) -> Method:
    """A method that gives `value` on `slot`."""
    return type("Gives", (Method,), {slot: lambda self: value})()


def test_every_slot_says_what_it_takes_back() -> None:
    assert set(CHECKS) | TOLD_ONLY == set(SLOTS) and not set(CHECKS) & TOLD_ONLY
    assert set(WRONG) | set(RIGHT) | MAY_BE_NONE <= set(CHECKS)


@pytest.mark.parametrize(("slot", "value"), CASES)
def test_what_a_slot_does_not_take_is_one_message(slot: str, value: Any) -> None:
    with pytest.raises(MethodError) as e:
        call(method(slot, value), slot, "its-name", **OFFERED.get(slot, {}))
    said = str(e.value)
    assert "'its-name' gave " in said and f"on the slot '{slot}'" in said and SLOTS[slot].gives in said
    assert "test_returned.py:" in said


def test_what_a_slot_takes_comes_through() -> None:
    for slot, value in [(s, v) for s, values in RIGHT.items() for v in values] + [(s, None) for s in MAY_BE_NONE]:
        check_returned(Method, slot, value, offered=OFFERED.get(slot))
    for slot in TOLD_ONLY:
        assert call(method(slot, 3), slot) == 3, "what is only told of something may give what it likes"


def test_what_came_is_told_in_a_few_words() -> None:
    said = [told(v) for v in (None, 1.5, True, "x" * 99, torch.zeros(2, 3), {}, object(), OSError())]
    text = "the text " + repr("x" * 40)
    assert said == ["None", "1.5", "True", text, "a tensor of shape [2, 3]", "a dict", "an object", "an OSError"]


# -- in the loop -------------------------------------------------------------------------------------------------------


class Bad(Method):
    """A reward without a `return`."""

    def reward(self, samples: Any) -> Any:
        return None


class Mix(Method):
    def mixture(self, weights: dict[str, float]) -> Any:
        return dict.fromkeys(weights, None)


class Flat(Method):
    def objective(self, outputs: Any) -> Any:
        return -outputs.log_probs()


class Stateless(Method):
    def setup(self, run: Any) -> State:
        return None  # type: ignore[return-value]

    def after_step(self) -> None:
        pass


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ([("told", Told()), ("bad", Bad())], "'bad' gave None on the slot 'reward'"),
        ([("mix", Mix())], "'mix' gave a dict with None for '"),
        ([("flat", Flat())], "'flat' gave a tensor of shape"),
        ([("none", Stateless())], "'none' gave None as its state"),
    ],
)
def test_a_stage_ends_with_the_message(named: Any, words: str) -> None:
    with pytest.raises(MethodError, match=words) as e:
        Tiny(named, steps=1).run()
    assert "-> " in str(e.value)


# -- beside the loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        [0.5],
        ["a"],
        [None],
        ([0], [None]),
        Selected([0], scores={"s": [None, 1.0]}),
        Selected([0], scores=[1]),  # type: ignore[arg-type]
        Selected([0], reasons=[None, ""]),  # type: ignore[list-item]
    ],
)
def test_a_selection_that_cannot_be_read(given: Any) -> None:
    with pytest.raises(MethodError, match="'mine' gave a selection that cannot be read") as e:
        selected(given, 2, "mine", "data.select")
    assert "indices of the records to keep" in str(e.value)


def test_a_score_that_is_not_finite_names_its_row() -> None:
    rows = [Record({}, id="a", where="a.jsonl:1"), Record({}, id="b", where="a.jsonl:2")]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(MethodError, match="a.jsonl:2: 'mine' gives (nan|inf) as s, which is no finite number"):
            selected(Selected([0], scores={"s": [0.0, bad]}), 2, "mine", "x", rows)


def test_selections_are_read_in_every_form() -> None:
    for given in ([1, 0], torch.tensor([1, 0]), (1, 0), ([1, 0], [1.0, 1.0]), Selected([1, 0])):
        assert selected(given, 2, "mine", "x").indices == [1, 0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"thrown": None}, "`thrown` is None"),
        ({"written": "x"}, "`written` the text 'x'"),
        ({"verdict": None}, "`verdict` is None"),
        ({"scores": {"s": "good"}}, "score 's' is the text 'good'"),
        ({"scores": {"s": float("nan")}}, "score 's' is nan"),
        ({"values": {"text": "half \ud800"}}, "no JSON"),
    ],
)
def test_what_was_made_is_whole(more: dict[str, Any], words: str) -> None:
    record = Record({"text": "x"}, id="r:1")

    class Makes(Method):
        def synthesize(self) -> Any:
            return [Made(**{"values": {"text": "y"}, "of": record, **more})]

    with pytest.raises(MethodError, match=words):
        made_by(
            "mine", Makes(), [record], writers={}, readers={}, score=lambda a: [], labels=None, round=1,
            rng=None, where="x",  # type: ignore[arg-type]
        )  # fmt: skip


def gives(value: Any) -> Callable[..., Any]:
    return lambda *given: value


@pytest.mark.parametrize("value", [None, "1", [1.0], float("nan")])
def test_a_metric_that_gives_no_number(value: Any) -> None:
    metric = checked(Metric("generated", compare=gives(value)), "mine", "mine:METRIC")
    assert metric.compare is not None
    with pytest.raises(MethodError, match=r"`compare` of the metric 'mine' gave .*\n  -> return a finite number"):
        metric.compare("a", "b")


def test_every_function_of_a_metric_is_held_to_its_kind() -> None:
    for what, wrong, right in (
        ("figure", None, float("nan")),
        ("parts", {"a": None}, {"a": 0.5}),
        ("misses", None, True),
        ("per_label", torch.zeros(()), torch.zeros(2)),
    ):
        bad, good = (checked(Metric("generated", **{what: gives(v)}), "mine", "m") for v in (wrong, right))  # type: ignore[arg-type]
        with pytest.raises(MethodError, match=f"`{what}` of the metric 'mine' gave"):
            getattr(bad, what)([])
        assert getattr(good, what)([]) is right and bad.compare is None


def test_a_finding_that_is_none() -> None:
    from tunewright.contract.combining import Bound
    from tunewright.runs.stages import _found

    class Finds(Method):
        def found(self, state: State) -> Any:
            return {"a": 1}

        def after_step(self) -> None:
            pass

    with pytest.raises(MethodError, match="'mine' gave a dict as what it found"):
        _found(Bound("mine", Finds()))
    told_by = Found("t", "d")
    Finds.found = lambda self, state: told_by  # type: ignore[method-assign]
    assert _found(Bound("mine", Finds())) is told_by
