"""What an objective that couples the whole batch is given under micro-steps: the signals and fields of every
micro-batch, in order.
"""

from __future__ import annotations

import torch

from tunewright.training.coupled import _join


def test_parts_of_micro_batches_are_joined_by_what_they_are():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    assert _join([a, b]).tolist() == [1.0, 2.0, 3.0]
    first, second = _join([(a, b), (b, a)])
    assert first.tolist() == [1.0, 2.0, 3.0] and second.tolist() == [3.0, 1.0, 2.0]
    assert _join([5, 9, 7]) == 9 and _join([["x"], ["y", "z"]]) == ["x", "y", "z"]
