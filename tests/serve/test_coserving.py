"""Pieces of a training step: their gradients are the whole step's, and they run in what serving leaves."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.serve.serving import BASE, loaded
from tunewright.measure.generate import greedy
from tunewright.serve.engine import Engine
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server
from tunewright.serve.tinker import coserving, pieces
from tunewright.serve.tinker.coserving import CoServing
from tunewright.serve.tinker.learner import Datum, Learner, Shape, loss_of
from tunewright.serve.tinker.pieces import Pace, Pieces


def rows(count: int = 4, longest: int = 40) -> list[Datum]:
    g = torch.Generator().manual_seed(0)
    out = []
    for i in range(count):
        n = longest - 7 * i
        ids = torch.randint(8, 200, (n + 1,), generator=g)
        weights = torch.rand(n, generator=g)
        out.append(Datum(ids[:-1].tolist(), ids[1:], {"weights": weights}))
    return out


def by_plain_autograd(learner, change, data):
    """Gradients of each row alone, read whole, by the library's own forward."""
    with learner._on(change.deltas):
        total = 0.0
        for d in data:
            shares = learner.adapted.model(input_ids=torch.tensor([list(d.tokens)]), use_cache=False).logits[0]
            own = shares.log_softmax(-1).gather(-1, d.targets[:, None])[:, 0]
            total = total + loss_of("cross_entropy", own, d.given, {})
        grads = torch.autograd.grad(total, change.parameters)
    return float(total), grads


@pytest.mark.parametrize("model", [tiny.llama, tiny.gpt2, tiny.qwen3])
@pytest.mark.parametrize("size", [1, 3, 16, 400])
def test_gradients_are_those_of_the_whole_step(monkeypatch, model, size):
    monkeypatch.setattr(pieces, "MOST", size)
    monkeypatch.setattr(pieces, "LEAST", min(8, size))
    learner, data = Learner(model()), rows(3, 24)
    change = learner.begin(Shape(3), 1)
    for d in change.deltas.values():  # B is not zero, so that A learns
        torch.nn.init.normal_(dict(d.named_parameters())["lora_B"], std=0.3, generator=torch.Generator().manual_seed(1))
    total, wanted = by_plain_autograd(learner, change, data)
    read = learner.learn(change, data, "cross_entropy", {})
    told = sum(float(loss_of("cross_entropy", x, d.given, {})) for x, d in zip(read, data, strict=True))
    assert told == pytest.approx(total, rel=1e-4)
    for p, g in zip(change.parameters, wanted, strict=True):
        assert float((p.grad - g).norm()) <= 5e-4 * float(g.norm())  # float32, as kernels differ


def test_keys_that_nothing_trained_reaches_get_no_gradient():
    learner, data = Learner(tiny.llama()), rows(1, 20)
    change = learner.begin(Shape(2), 0)
    last = {n: d for n, d in change.deltas.items() if ".1.mlp." in n}  # behind all attention
    change = type(change)(change.shape, last)
    with torch.enable_grad(), learner._on(change.deltas):
        (work,) = list(learner._pieces(data, "cross_entropy", {}, []))[:1] or [None]
        while not work.done:
            work.piece(0.0, 0.0)
            assert all(not k.numel() and not v.numel() for k, v in work._gradients)
    _, wanted = by_plain_autograd(learner, change, data)
    for p, g in zip(change.parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5)


def test_chunks_are_as_long_as_fits():
    pace = Pace()
    assert pace.room("forward", 9.0) == 0
    pace.note("forward", 10, 1.0)
    assert pace.room("forward", 1.0) == int(1.0 / (pieces.MARGIN * 0.1))
    pace.note("forward", 10, 0.1)  # a fast one is believed slowly, a slow one at once
    assert pace.forward == pytest.approx(0.8 * 0.1 + 0.2 * 0.01)
    pace.note("forward", 10, 5.0)
    assert pace.forward == 0.5
    pace.backward = 0.5
    work = Pieces(None, torch.zeros(2, 100, dtype=torch.long), torch.zeros(2, 100), [100, 90], [], None, pace)
    assert work._size(40.0, 80.0) == 32  # 40 s / (1.25 x 0.5 s) over 2 rows
    assert work._size(40.0, 20.0) == 16  # its backward has to fit into a step's share
    assert work.fits(11.0, 80.0) and not work.fits(9.0, 80.0)


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Work:
    """Pieces of 10 ms each."""

    def __init__(self, clock, count):
        self.clock, self.left, self.sizes = clock, count, []

    @property
    def done(self):
        return self.left == 0

    def fits(self, seconds, share):
        return seconds >= 0.01 - 1e-9

    def piece(self, seconds, share):
        self.sizes.append(round(seconds, 4))
        self.clock.now += 0.01
        self.left -= 1


@pytest.mark.parametrize("rows_written", [0, 3])
def test_pieces_run_where_they_fit_and_one_at_least_once_in_a_while(monkeypatch, rows_written):
    clock = Clock()
    monkeypatch.setattr(coserving, "time", clock)
    engine = SimpleNamespace(
        limits=Limits(), load={"rows": rows_written}, between=None, wake=lambda: None, running=True
    )
    shared = CoServing(engine)
    work = Work(clock, 6)
    sizes = work.sizes
    shared._last = clock.now
    shared._work = iter([work])
    assert shared.between(0.025)  # two fit
    assert sizes == [0.025, 0.015]
    did = shared.between(0.005)  # none fits
    assert did == (rows_written == 0) and len(sizes) == 2 + did
    clock.now += coserving.PATIENCE
    assert shared.between(0.0) and len(sizes) == 3 + did  # it has waited long enough
    assert shared.between(1.0) and len(sizes) == 6 and shared._done.is_set()
    assert not shared.between(1.0)


def test_what_fails_in_a_piece_is_raised_where_it_was_asked():
    with Server(loaded(), BASE, None) as server:
        learner, shared = Learner(server.engine.model.model), CoServing(server.engine)
        change = learner.begin(Shape(2), 0)
        bad = Datum([9, 10, 11], torch.tensor([10, 11, 12]), {"weights": torch.full((3,), 3e38)})
        with pytest.raises(ApiError, match="not finite"):
            learner.learn(change, [bad], "cross_entropy", {}, shared.run)
        assert all(p.grad is None for p in change.parameters) and not learner.adapted.deltas()
        learner.learn(change, rows(1), "cross_entropy", {}, shared.run)
    with pytest.raises(RuntimeError, match="has stopped"):
        learner.learn(change, rows(1), "cross_entropy", {}, shared.run)


def test_answers_are_the_same_while_something_trains_beside_them():
    prompt = [5, 20, 31, 44]
    wanted = greedy(tiny.llama(), tiny.tokenizer(), [prompt], 40)[0]
    with Server(loaded(), BASE, None) as server:
        engine: Engine = server.engine
        learner, shared = Learner(engine.model.model), CoServing(engine)
        change, data = learner.begin(Shape(3), 1), rows(4)
        _, alone = by_plain_autograd(learner, change, data)
        stop, trained = threading.Event(), [0]

        def train():
            while not stop.is_set():
                change.forget()
                learner.learn(change, data, "cross_entropy", {}, shared.run)
                trained[0] += 1

        thread = threading.Thread(target=train)
        thread.start()
        try:
            for _ in range(6):
                handle = engine.submit(Request(prompt, Sampling(40, temperature=0.0, ends=server.ends)))
                said = [s.token for s in handle.result()[0].said]
                assert said == wanted
            end = time.monotonic() + 300
            while not trained[0] and time.monotonic() < end:
                time.sleep(0.02)
        finally:
            stop.set()
            thread.join(300)
        assert trained[0] and all(
            torch.allclose(p.grad, g, rtol=1e-3, atol=1e-4) for p, g in zip(change.parameters, alone, strict=True)
        )
