"""EMA-merge: what a stage leaves lies between its start and what training came to, in the share that is asked."""

from __future__ import annotations

import pytest
import torch

from tests.methods.driving import Run, assert_resumes
from tunewright.methods.optimization.ema_merge import EMAMerge
from tunewright.methods.parameter_selection.full import FullFineTuning


def driven(listen=None, **parameters):
    methods = (
        {"full": FullFineTuning(), "ema-merge": EMAMerge(**parameters)} if parameters else {"full": FullFineTuning()}
    )
    return Run(methods, steps=4, listen=listen)


def weights(loop):
    return {n: p.detach().clone() for n, p in loop.trained.parameters().items()}


def test_the_result_is_start_and_end_in_their_shares_and_so_are_evaluations_on_the_way():
    plain = []
    run = driven(lambda loop: plain.append(weights(loop)))
    start = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    seen, during = [], []

    def listen(loop):
        during.append(weights(loop))
        with loop.kept_weights():
            seen.append(weights(loop))

    merged = driven(listen, weight=0.75)
    merged.train()
    for n, value in merged.adapted.base_parameters().items():
        torch.testing.assert_close(value.detach(), 0.75 * start[n] + 0.25 * plain[-1][n])
        for t in range(4):
            torch.testing.assert_close(seen[t][n], 0.75 * start[n] + 0.25 * plain[t][n])
            assert torch.equal(during[t][n], plain[t][n])  # training itself is that without merging


def test_a_larger_weight_stays_nearer_to_the_start():
    ends = []
    for weight in (0.3, 0.9):
        run = driven(weight=weight)
        start = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
        run.train()
        ends.append(sum(float((p.detach() - start[n]).norm()) for n, p in run.adapted.base_parameters().items()))
    assert ends[1] == pytest.approx(ends[0] / 7, rel=1e-3)


@pytest.mark.parametrize("at", [1, 3])
def test_resumes(at):
    assert_resumes(lambda listen: driven(listen, weight=0.5), at)
