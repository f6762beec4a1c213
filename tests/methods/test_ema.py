"""EMA: the result is the average that is written out by hand, and evaluations on the way see it."""

from __future__ import annotations

import pytest
import torch

from tests.methods.driving import Run, assert_resumes
from tunewright.methods.optimization.ema import EMA
from tunewright.methods.parameter_selection.full import FullFineTuning


def driven(listen=None, **parameters):
    methods = {"full": FullFineTuning(), "ema": EMA(**parameters)} if parameters else {"full": FullFineTuning()}
    return Run(methods, steps=5, listen=listen)


def weights(loop):
    return {n: p.detach().clone() for n, p in loop.trained.parameters().items()}


@pytest.fixture(scope="module")
def plain():
    """The weights of plain training: before it, and after each of its steps."""
    seen = []
    run = driven(lambda loop: seen.append(weights(loop)))
    start = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    return [start, *seen]


@pytest.mark.parametrize("every", [1, 2])
def test_the_average_is_what_is_left_and_what_evaluations_see(plain, every):
    expected, by_step = dict(plain[0]), []
    for t in range(1, 6):
        if t % every == 0:
            expected = {n: 0.75 * a + 0.25 * plain[t][n] for n, a in expected.items()}
        by_step.append(expected)
    seen, during = [], []

    def listen(loop):
        during.append(weights(loop))
        with loop.kept_weights():
            seen.append(weights(loop))

    run = driven(listen, decay=0.75, every=every)
    run.train()
    for n, value in run.adapted.base_parameters().items():
        torch.testing.assert_close(value.detach(), by_step[-1][n])
        for t in range(5):
            torch.testing.assert_close(seen[t][n], by_step[t][n])
            assert torch.equal(during[t][n], plain[t + 1][n])  # training itself is that without an average


def test_resumes():
    assert_resumes(lambda listen: driven(listen, decay=0.5, every=2), 3)
