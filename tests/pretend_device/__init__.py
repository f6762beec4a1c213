"""A GPU that is pretended: inside `pretended()` tensors may be on "cuda" and say so; the CPU computes.

What would fail on CUDA fails there too. Tensors stay plain CPU tensors: whose memory counts as being on the device is
kept in a table beside them (`tags`). A torch function mode (`functions`) answers what Python asks (`.device`, `.to`,
`device=`, `.numpy()`); a torch dispatch mode (`ops`) sees every operation below autograd, refuses those that mix
devices (`rules`) and marks what comes out. The device has a generator of its own (`randomness`), `torch.cuda` answers
as if there were one GPU (`backend`), and Python that torch calls from inside sees the device as well (`callbacks`).

What it cannot show: the device's own kernels (their rounding, their missing types, the order of their sums, attention
that is chosen by the device), autocast of "cuda", asynchronous errors, memory that runs out, several GPUs, other
threads and other processes (modes belong to one thread), sparse and nested tensors, code that reads memory past torch
(`data_ptr`, storages). A tensor that C++ makes inside an operation on the device is taken to be on it; `copy_` across
devices sends its gradient back unmoved.
"""

from tests.pretend_device.backend import MEMORY, NAME, REAL, pretended

__all__ = ["MEMORY", "NAME", "REAL", "pretended"]
