"""Weights read from a file laid where torch lays its own tensors, so that what they give does not follow the file.

A safetensors file that is mapped into memory puts a tensor wherever the header and the tensors before it end; torch's
own memory begins at multiples of 64 bytes. Float32 kernels for matrices and vectors round by that (see `agreement`),
so the same weights would give other bits from another file, and a base that is put back from a copy other bits than it
gave at first: a resumed run would not end as one that was never stopped. Over 6,500 shapes of linear layers and their
gradients, no multiple of 64 gave other bits than another. Bfloat16 tensors stay mapped: their kernels did not depend on
the address, and a large model would take twice its size while it is loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes to which torch aligns what it allocates on the CPU (c10's `gAlignment`)."""


def aligned(t: Tensor) -> Tensor:
    """The tensor itself, or a copy in torch's own memory where it is float32 on the CPU and lies askew."""
    askew = t.dtype == torch.float32 and t.device.type == "cpu" and t.data_ptr() % ALIGNMENT
    return t.clone(memory_format=torch.contiguous_format) if askew else t


def align(model: nn.Module) -> int:
    """Lay a model's parameters and buffers so, in place; return how many were copied. Tied ones stay tied."""
    count = 0
    for t in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        data = t.data
        laid = aligned(data)
        if laid is not data:
            t.data, count = laid, count + 1
    return count
