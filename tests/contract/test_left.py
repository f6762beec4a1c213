"""What a method leaves is found by later stages: by the method, by the stage's name, through files, in every bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save

from tunewright.contract.left import Earlier, Left, NotThereYet, from_files, left_of, to_files
from tunewright.contract.method import State
from tunewright.errors import MethodError


def state() -> State:
    held = State(count=3, words=["a", "b"])
    held.set_buffer("fisher.model.layers.0.q", torch.arange(4.0))
    held.set_buffer("fisher.model.layers.1.q", torch.arange(2.0))
    held.set_buffer("mean", torch.tensor([1.5, 2.5], dtype=torch.bfloat16))
    held.table = torch.nn.Parameter(torch.ones(2, 2))
    return held


NAMES = ("fisher", "mean", "count", "words", "table")


def test_what_is_left_goes_through_files():
    left = left_of("first", "ewc", NAMES, state(), state().data)
    data, tensors = to_files([left])
    again = from_files(
        "first", json.loads(json.dumps(data)), load(save({n: t.contiguous() for n, t in tensors.items()}))
    )
    assert len(again) == 1 and (again[0].stage, again[0].method) == ("first", "ewc")
    values = again[0].values
    assert values["count"] == 3 and values["words"] == ["a", "b"]
    assert sorted(values["fisher"]) == ["model.layers.0.q", "model.layers.1.q"]
    assert torch.equal(values["fisher"]["model.layers.0.q"], torch.arange(4.0))
    assert torch.equal(values["mean"], state().get("mean")) and torch.equal(values["table"], torch.ones(2, 2))


def test_a_later_stage_finds_it_by_method_and_by_stage():
    earlier = Earlier((Left("one", "ewc", {"n": 1}), Left("two", "ewc", {"n": 2}), Left("three", "other", {"m": 3})))
    assert earlier.latest("ewc").values == {"n": 2} and earlier.latest("nosuch") is None
    assert earlier.named("stages.one.n") == 1 and earlier.named("stages.three.m") == 3
    with pytest.raises(MethodError, match="stages.one.m") as caught:
        earlier.named("stages.one.m")
    assert "stages.one.n" in caught.value.remedy
    with pytest.raises(NotThereYet):
        Earlier(complete=False).named("stages.one.n")


def test_a_stage_inherits_from_those_that_it_goes_on_from_alone():
    left = (Left("one", "ewc", {"n": 1}), Left("two", "ewc", {"n": 2}), Left("aside", "ewc", {"n": 3}))
    assert Earlier(left).inherited("ewc") == left[2]  # nobody said which way it went
    assert Earlier(left, way=("two", "one")).inherited("ewc") == left[1]
    assert Earlier(left, way=("one",)).inherited("ewc") == left[0]
    assert Earlier(left, way=()).inherited("ewc") is None
    assert Earlier(left, way=("one",)).latest("ewc") == left[2]


def test_a_name_that_the_state_does_not_hold_is_refused():
    with pytest.raises(MethodError, match="'ewc' declares that it leaves 'nosuch'"):
        left_of("first", "ewc", ("nosuch",), state(), state().data)
    assert left_of("first", "ewc", (), state(), state().data) is None
