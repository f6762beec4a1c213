"""Adapters that stay on a model while rows come and go: every token as if its row were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tests.models.test_routing import alone, make
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.attention import packed_kwargs, prepare_attention
from tunewright.models.lanes import FEW, Lanes, rank_of

KINDS: dict[str, Any] = {"a": 2, "b": 5, "c": 4, "d": 5, "gate": "gated", "off": "offset", "sp": "sparse"}


def lanes_of(kinds: dict[str, Any], order: list[str] | None = None) -> tuple[Lanes, Adapted]:
    """(lanes with these adapters, a plain model that has the same)."""
    plain = make(kinds)
    adapted = Adapted(tiny.llama())
    assert prepare_attention(adapted.model)
    lanes = Lanes(adapted)
    for name in order or kinds:
        lanes.add(name, taken(make(kinds), name))
    return lanes, plain


def taken(adapted: Adapted, name: str) -> dict[str, forms.Delta]:
    return {site: by_name[name] for site, by_name in adapted.deltas().items() if name in by_name}


def said(lanes: Lanes, names: list[str | None], rows: list[list[int]]) -> list[torch.Tensor]:
    lengths = [len(r) for r in rows]
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    ids = torch.tensor([[t for r in rows for t in r]])
    places = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad(), lanes.turn(names, lengths):
        logits = lanes.adapted.model(ids, position_ids=places, use_cache=False, **packed_kwargs(cu)).logits[0]
    return list(logits.split(lengths))


def check(lanes: Lanes, plain: Adapted, names: list[str | None], *, single: bool) -> None:
    names = sorted(names, key=lanes.order)
    rows = [list(range(10 + i, 11 + i if single else 14 + i + i % 3)) for i in range(len(names))]
    for name, ids, got in zip(names, rows, said(lanes, names, rows), strict=True):
        with torch.no_grad():
            assert agrees(got, alone(plain, name, ids)), name


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ["a", None, "b", "b", "c", "gate", "off", "a", "sp", None, "d"],
        ["a", "b", "c", "d", "gate", "off"],
        ["b", "b", "b", "d", "d"],
        [None, "sp"],
        [None],
    ],
)
def test_each_row_is_as_if_alone(names: list[str | None], single: bool) -> None:
    check(*lanes_of(KINDS), names, single=single)


def test_single_rows_are_batched_and_places_are_used_again() -> None:
    lanes, plain = lanes_of({n: 3 for n in "abcdef"})
    with lanes.turn(list("abcdef"), [1] * 6):
        assert [len(r.names) for r in lanes._runs] == [6]
    lanes.remove("c")
    with lanes.turn(list("abdef"), [1] * 5):
        assert [len(r.names) for r in lanes._runs] == [1, 1, 3] and FEW == 3
    check(lanes, plain, list("abdef"), single=True)
    lanes.add("c", taken(make({n: 3 for n in "abcdef"}), "c"))
    with lanes.turn(sorted("fedcba", key=lanes.order), [1] * 6):
        assert [len(r.names) for r in lanes._runs] == [6]
    check(lanes, plain, list("abcdef"), single=True)


def test_a_smaller_adapter_in_a_larger_ones_place_reads_nothing_of_it() -> None:
    kinds = {"a": 4, "b": 3, "c": 4, "d": 4}
    lanes, plain = lanes_of(kinds, ["a", "c", "d"])
    lanes.remove("a")
    lanes.add("b", taken(make(kinds), "b"))
    check(lanes, plain, ["b", "c", "d"], single=True)


def test_adapters_on_some_sites_alone() -> None:
    lanes, plain = lanes_of({n: 3 for n in "abc"})
    few = dict(list(taken(make({n: 3 for n in "abc"}), "b").items())[::2])
    lanes.remove("b")
    lanes.add("b", few)
    for site, by_name in plain.deltas().items():
        if site not in few:
            forms.detach(plain.structure.site(site), "b")
        assert by_name
    check(lanes, plain, ["a", "b", "c"], single=True)
    check(lanes, plain, ["b"], single=False)


def test_strength_is_in_the_stack() -> None:
    lanes, plain = lanes_of({n: 3 for n in "abc"})
    half = taken(make({n: 3 for n in "abc"}), "b")
    for delta in half.values():
        delta.strength = 0.5
    lanes.remove("b")
    lanes.add("b", half)
    for by_name in plain.deltas().values():
        by_name["b"].strength = 0.5
    for single in (True, False):
        check(lanes, plain, ["a", "b", "c"], single=single)


def test_outside_of_steps_the_model_is_the_base() -> None:
    lanes, _ = lanes_of(KINDS)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(lanes.adapted.model(ids).logits, tiny.llama()(ids).logits)
        said(lanes, ["sp", "a"], [[5, 6], [7, 8]])
        assert torch.equal(lanes.adapted.model(ids).logits, tiny.llama()(ids).logits)


def test_a_delta_of_somebody_else_does_not_speak_in_a_step() -> None:
    lanes, plain = lanes_of({"a": 2, "sp": "sparse"})
    for site, delta in taken(make({"other": 4}), "other").items():
        forms.attach(lanes.adapted.structure.site(site), "other", delta)  # active, as one that trains is
    for names in (["a", None], [None], ["sp", None, "a"]):
        check(lanes, plain, names, single=True)  # type: ignore[arg-type]


def test_an_adapter_that_does_not_fit_leaves_nothing_behind() -> None:
    lanes, _ = lanes_of({"a": 2})
    deltas = taken(make({"x": 2}), "x")
    last = list(deltas)[-1]
    deltas[last] = deltas.pop(last)
    with pytest.raises(KeyError):
        lanes.add("x", {**deltas, "nowhere": deltas[last]})
    assert "x" not in lanes and not any("x" in by_name for by_name in lanes.adapted.deltas().values())


def test_ranks_are_padded_to_powers_of_two() -> None:
    assert [rank_of(taken(make({"x": r}), "x")) for r in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert rank_of(taken(make({"x": "sparse"}), "x")) == 0 and rank_of({}) == 0
