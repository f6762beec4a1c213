"""What is left when the pretence ends: nothing."""

from __future__ import annotations

import pytest
import torch

from tests.pretend_device import REAL, pretended

pytestmark = pytest.mark.skipif(REAL, reason="a GPU is here")


def test_torch_is_as_before():
    before = torch.Generator, torch.cuda.is_available, torch.autograd._engine_run_backward, torch.cuda._initialized
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), pretended():
        x = torch.rand(3, device="cuda")
        assert x.is_cuda
        raise ZeroDivisionError
    after = torch.Generator, torch.cuda.is_available, torch.autograd._engine_run_backward, torch.cuda._initialized
    assert before == after and not torch.cuda.is_available() and torch.equal(state, torch.get_rng_state())
    assert not x.is_cuda and (x + torch.ones(3)).shape == (3,)
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")


def test_marks_go_with_their_tensors():
    with pretended() as state:
        for _ in range(3000):
            torch.zeros(1, device="cuda")
        assert len(state.tags._storages) <= 1024
