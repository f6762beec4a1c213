"""Pre-training: a run that was interrupted goes on to the same bits, and its rate and updates are what they are
said to be.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tunewright.claims.lab import causal, pretrain
from tunewright.claims.lab.pretrain import Budget, Curve, orthogonal, train, windows

TOKENS = (5 + np.arange(4000) ** 2 % 60).astype(np.uint16)
BUDGET = Budget(tokens=10 * 4 * 32, batch=4, warmup=2)


def run(folder, fails_at: int | None = None) -> tuple[dict[str, torch.Tensor], Curve]:
    model = tiny.llama()

    def loss(indices, step):
        if step == fails_at:
            raise KeyboardInterrupt
        return causal.nats(model, windows(TOKENS, indices, 32))

    curve = train(
        model,
        BUDGET,
        4000 // 33,
        loss,
        lambda: float(causal.nats(model, windows(TOKENS, [0], 32)).detach()),
        folder,
        32,
    )
    return {n: p.detach().clone() for n, p in model.named_parameters()}, curve


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "EVERY", 3)
    whole, curve = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", fails_at=8)
    again, other = run(tmp_path / "cut")
    assert all(torch.equal(whole[n], again[n]) for n in whole)
    assert (
        curve.points == other.points and [p[0] for p in curve.points] == [384, 768, 1152, 1280] and curve.tokens == 1280
    )
    assert curve.points[-1][1] < curve.points[0][1]
    assert not list((tmp_path / "cut").glob("*.writing"))


def test_newton_schulz_brings_singular_values_near_one():
    for shape in ((8, 24), (24, 8), (2, 8, 8)):
        values = torch.linalg.svdvals(
            orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)), steps=8)
        )
        assert values.min() > 0.5 and values.max() < 1.3
