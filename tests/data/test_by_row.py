"""Gradients of several records at once against each record's own, and records that are read one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tunewright.conformance.reading import Reads
from tunewright.data.select import _by_row
from tunewright.data.select._gradients import adapter, gradient
from tunewright.data.select.less import LESS
from tunewright.errors import MethodError

NAME = "less"


class Bench:
    """Records of a task, and an adapter of no zero factor on every linear layer of a model's blocks."""

    def __init__(self, batch_tokens: int = 64) -> None:
        reads = Reads(LESS(), batch_tokens=batch_tokens)
        self.reader, self.records = reads.readers["start"], reads.records
        self.sites = [s for s in self.reader.adapted.structure.sites if s.block is not None and s.kind == "linear"]

    def both(self) -> tuple[dict[int, torch.Tensor], list[torch.Tensor]]:
        """(gradients together, each record's own)."""
        with adapter(self.reader, NAME, self.sites, 3, 0.5, random.Random(0)) as parameters:
            for p in parameters:
                torch.nn.init.normal_(p, std=0.1)
            found = dict(_by_row.gradients(self.reader, NAME, self.sites, self.records))
            own = [gradient(self.reader.loss(r), parameters, r.where) for r in self.records]
        return found, own


def closely(found: dict[int, torch.Tensor], own: list[torch.Tensor]) -> None:
    assert sorted(found) == list(range(len(own)))
    for i, g in enumerate(own):
        assert float(g.norm()) > 1e-3
        torch.testing.assert_close(found[i], g, rtol=1e-3, atol=1e-6)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each batch holds."""
    sizes, made = list[int](), _by_row._together

    def counted(reader: Any, name: str, sites: Any, records: Any) -> torch.Tensor:
        sizes.append(len(records))
        return made(reader, name, sites, records)

    monkeypatch.setattr(_by_row, "_together", counted)
    return sizes


@pytest.mark.parametrize("tokens", [1, 40, 4096])
def test_each_row_s_gradient_is_its_record_s_own(tokens: int, together: list[int]) -> None:
    bench = Bench(tokens)
    before = [p.clone() for p in bench.reader.adapted.model.parameters()]
    closely(*bench.both())
    assert sum(together) == len(bench.records) and (max(together) > 1) == (tokens > 1)
    assert (len(together) == 1) == (tokens == 4096)
    after = list(bench.reader.adapted.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(hasattr(s.module, "delta") for s in bench.sites)


def test_a_record_of_several_pieces_is_read_alone(together: list[int]) -> None:
    bench = Bench(4096)
    rows_of, first = bench.reader.rows_of, bench.records[4]
    bench.reader.rows_of = lambda r: [*rows_of(r), *rows_of(bench.records[0])] if r is first else rows_of(r)
    closely(*bench.both())
    assert together == [len(bench.records) - 1]


def test_models_whose_layers_mix_rows_are_read_record_by_record(together: list[int]) -> None:
    bench = Bench(40)
    bench.sites = bench.sites[:1]  # the queries of a block, which are cut into heads behind it whatever their shape
    bench.sites[0].module.register_forward_pre_hook(lambda module, given: (given[0].flatten(0, -2),))
    closely(*bench.both())
    assert len(together) == 1


def test_gradients_that_are_not_the_record_s_own_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, together: list[int]
) -> None:
    bench = Bench(40)
    forward = _by_row.ByRow.forward
    monkeypatch.setattr(_by_row.ByRow, "forward", lambda self, x, y: forward(self, x.roll(1, 0), y))
    closely(*bench.both())
    assert len(together) == 1


def test_a_gradient_that_is_not_finite_names_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(4096)
    bench.records[3] = replaced = bench.records[3].replace()
    rows_of, made = bench.reader.rows_of, _by_row._together

    def spoiled(reader: Any, name: str, sites: Any, records: Any) -> torch.Tensor:
        found = made(reader, name, sites, records)
        found[[r is replaced for r in records].index(True), 0] = float("nan")
        return found

    monkeypatch.setattr(_by_row, "_together", spoiled)
    closely(*bench.both())  # it is read once more, alone, and was finite
    weight = bench.reader.adapted.model.get_input_embeddings().weight
    with torch.no_grad():
        weight[list(rows_of(replaced)[0].input_ids)] = float("inf")
    with pytest.raises(MethodError, match="no finite number"):
        bench.both()


def test_batches_hold_rows_of_like_length_and_no_token_too_many() -> None:
    assert list(_by_row._batches({0: 5, 1: 9, 2: 9, 3: 2, 4: 40}, 20, 9)) == [[4], [1, 2], [0, 3]]
    assert list(_by_row._batches(dict.fromkeys(range(5), 1), 20, 2)) == [[0, 1], [2, 3], [4]]
    assert list(_by_row._batches({}, 20, 9)) == []


def test_long_rows_are_read_alone(monkeypatch: pytest.MonkeyPatch, together: list[int]) -> None:
    bench = Bench(4096)
    monkeypatch.setattr(_by_row, "SHORT", 8)
    closely(*bench.both())
    assert together == [sum(bench.reader.rows_of(r)[0].size <= 8 for r in bench.records)] != [len(bench.records)]


def test_as_many_rows_go_together_as_their_gradients_have_room(
    monkeypatch: pytest.MonkeyPatch, together: list[int]
) -> None:
    bench = Bench(4096)
    numbers = sum(3 * (s.in_features + s.out_features) for s in bench.sites)
    monkeypatch.setattr(_by_row, "NUMBERS", 5 * numbers + 1)
    closely(*bench.both())
    assert together == [5, 5, 2]
