"""What an objective that couples the whole batch is given under micro-steps: the signals and fields of every
micro-batch, in order.
"""

from __future__ import annotations

import torch

from tunewright.contract.batch import joined


def test_parts_of_micro_batches_are_joined_by_what_they_are():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    assert joined([a, b]).tolist() == [1.0, 2.0, 3.0]
    first, second = joined([(a, b), (b, a)])
    assert first.tolist() == [1.0, 2.0, 3.0] and second.tolist() == [3.0, 1.0, 2.0]
    assert joined([5, 9, 7]) == 9 and joined([["x"], ["y", "z"]]) == ["x", "y", "z"]
