"""GPTfluence: its simulator against worlds whose factors are known, its runs against a step worked out by hand."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.data.select import _gradients, gptfluence
from tunewright.data.select.gptfluence import GPTfluence
from tunewright.errors import DataError, TunewrightError
from tunewright.pieces.simulated_training import Logged, Simulator

SMALL: dict[str, Any] = {"keep": 3, "runs": 2, "steps": 3, "batch": 2, "targets": 3, "width": 16, "passes": 20}


def world(seed: int, runs: int = 6) -> tuple[list[Logged], Tensor, Tensor]:
    """(logged runs, features of 60 rows and of 8 test rows) where a row lowers what is like it, as a share of its loss.

    The last run is on the last 20 rows alone, the others on none of them.
    """
    rng = torch.Generator().manual_seed(seed)
    kinds = torch.randn(4, 32, generator=rng)
    of, test_of = torch.arange(60) % 4, torch.arange(8) % 4
    train, test = (kinds[i] + 0.1 * torch.randn(len(i), 32, generator=rng) for i in (of, test_of))
    a = -0.05 * (of[:, None] == test_of).float()
    b = 0.004 * (of[:, None] == 3).float().expand(-1, 8)  # some rows do harm
    found = []
    for run in range(runs):
        some = torch.arange(40, 60) if run == runs - 1 else torch.arange(40)
        wanted = some[of[some] != run % 4]  # each run lacks a kind
        rows = wanted[torch.randint(len(wanted), (20, 3), generator=rng)]
        losses = [2 + torch.rand(8, generator=rng)]
        for z in rows:
            losses.append((1 + a[z].sum(0)) * losses[-1] + b[z].sum(0))
        found.append(Logged(rows, torch.stack(losses)))
    return found, train, test


@pytest.mark.parametrize("seed", range(2))
def test_curves_of_a_run_on_rows_that_were_in_none_are_foretold(seed: int) -> None:
    runs, train, test = world(seed)
    simulator = Simulator(torch.cat([train, test]), 64, torch.Generator().manual_seed(seed))
    simulator.fit(runs[:-1], train, test, passes=100, rate=1e-3)
    new = runs[-1]
    found = simulator.curves(new.losses[0], new.rows, train, test)
    assert torch.equal(found[0], new.losses[0]) and found.shape == new.losses.shape
    mean = torch.stack([r.losses - r.losses[0] for r in runs[:-1]]).mean(0) + new.losses[0]
    off, flat = ((x - new.losses).square().mean() for x in (found, mean))
    assert off < 0.05 * flat


def test_a_step_is_the_sum_of_its_rows_and_starts_at_the_size_of_what_is_logged() -> None:
    runs, train, test = world(0)
    simulator = Simulator(torch.cat([train, test]), 16, torch.Generator().manual_seed(0))
    simulator.fit(runs, train, test, passes=1, rate=1e-9)
    a, b = simulator.steps(torch.tensor([[0, 1], [0, 0]]), train, test)
    alone = simulator.steps(torch.tensor([[0], [1]]), train, test)
    torch.testing.assert_close(a[0], alone[0].sum(0))
    torch.testing.assert_close(b[1], 2 * alone[1][0])
    change = (runs[0].losses[1:] - runs[0].losses[:-1]).abs().mean()
    assert 0.01 < float((a * 2.5 + b).abs().mean() / change) < 3
    again = Simulator(torch.cat([train, test]), 16, torch.Generator().manual_seed(0))
    other = Simulator(torch.cat([train, test]), 16, torch.Generator().manual_seed(1))
    assert torch.equal(
        again.networks[0][0].weight, Simulator(train, 16, torch.Generator().manual_seed(0)).networks[0][0].weight
    )
    assert not torch.equal(again.networks[0][0].weight, other.networks[0][0].weight)


def test_a_logged_step_is_adams_first_on_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """B starts at 0, so that A stays and B goes by the rate against its gradient: W - rate sign(G A^T) A."""
    starts: list[tuple[str, Tensor]] = []
    made = _gradients.kaiming

    def noting(site: Any, rank: int, generator: Any) -> Any:
        A, B = made(site, rank, generator)
        starts.append((site.weight_name, A.clone()))
        return A, B

    monkeypatch.setattr(_gradients, "kaiming", noting)
    method = GPTfluence.model_validate({**SMALL, "runs": 1, "steps": 1, "learning_rate": 0.01})
    reads = Reads(method)
    reader, asked = reads.readers["start"], reads.records[:3]
    (run,) = method._log(reads.records, asked, reader, random.Random(0))

    model = copy.deepcopy(reads.adapted.model).eval().requires_grad_()

    def loss(i: int) -> Tensor:
        row = reader.rows_of(reads.records[i])[0]
        labels = torch.tensor([[t if w > 0 else -100 for t, w in zip(row.input_ids, row.weights, strict=True)]])
        return model(input_ids=torch.tensor([list(row.input_ids)]), labels=labels).loss

    torch.testing.assert_close(run.losses[0], torch.stack([loss(i) for i in range(3)]).detach())
    weights = [model.get_parameter(n) for n, _ in starts]
    found = torch.autograd.grad(torch.stack([loss(i) for i in run.rows[0].tolist()]).mean(), weights)
    with torch.no_grad():
        for W, G, (_, A) in zip(weights, found, starts, strict=True):
            W -= 0.01 * (G @ A.T).sign() @ A
        torch.testing.assert_close(run.losses[1], torch.stack([loss(i) for i in range(3)]), rtol=1e-4, atol=1e-5)


def test_what_is_kept_are_the_largest_falls_of_a_step_on_a_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[Simulator, Any, Tensor, Tensor]] = []
    fit = Simulator.fit

    def noting(self: Simulator, runs: Any, train: Tensor, test: Tensor, **more: Any) -> None:
        fit(self, runs, train, test, **more)
        fitted.append((self, runs, train, test))

    monkeypatch.setattr(Simulator, "fit", noting)
    method = GPTfluence.model_validate(SMALL)
    reads = Reads(method)
    found = reads.selected(method)
    ((simulator, runs, train, test),) = fitted
    first = runs[0].losses[0]
    assert [len(r.rows) for r in runs] == [3, 3] and runs[0].rows.shape[1] == 2 and len(first) == 3
    assert not torch.equal(runs[0].rows, runs[1].rows) and len(runs[0].rows.unique()) == 6  # each once, in a pass
    falls = [float((first - simulator.curves(first, torch.tensor([[i, i]]), train, test)[1]).mean()) for i in range(12)]
    assert found.scores["fall"] == pytest.approx(falls, rel=1e-4, abs=1e-6)
    assert list(found.indices) == sorted(range(12), key=lambda i: -falls[i])[:3]


@pytest.mark.slow
def test_each_option_moves_the_falls() -> None:
    reads = Reads(GPTfluence())
    more = [{}, {"runs": 3}, {"steps": 4}, {"batch": 3}, {"learning_rate": 0.01}, {"rank": 2}]
    changes: list[dict[str, Any]] = [*more, {"targets": 2}, {"width": 8}, {"passes": 30}]
    found = [
        call(GPTfluence.model_validate({**SMALL, **c}), "select", **reads.offered, rng=random.Random(0))
        for c in changes
    ]
    assert len({tuple(f.scores["fall"]) for f in found}) == len(changes)


def test_runs_that_tell_nothing_are_refused() -> None:
    reads = Reads(GPTfluence())

    def run(**settings: Any) -> Any:
        method = GPTfluence.model_validate({**SMALL, **settings})
        return call(method, "select", **reads.offered, rng=random.Random(0))

    with pytest.raises(DataError, match="no loss of the target moved"):
        run(learning_rate=1e-30)
    with pytest.raises(TunewrightError, match="is no finite number"):
        run(learning_rate=1e30, steps=5)
    assert len(run(batch=50).indices) == 3  # more than there are records
    assert gptfluence._padded(torch.tensor([[3, 4]])).tolist() == [[0.0, 0.0], [3.0, 4.0]]
