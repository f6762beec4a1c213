"""What a merge without data must know of whole models before its first tensor: counts, added over tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

Stream = Callable[[], Iterable[tuple[str, Tensor | None, Sequence[Tensor]]]]


def survey(method: Any, stream: Stream, each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the method knows after its passes over all tensors; {} for one that needs none (no `passes`, or 0).

    `each` holds every model's parameters, the same for all tensors. `stream()` yields (name, base, tensors) of every
    tensor, fp32, once for each of the method's `passes`. In each pass `method.survey(name, base, tensors, known)` gives
    integer counts by key, which are added up in any order; `method.surveyed(sums, known, each)` then turns them into
    what is known next.
    """
    known: dict[str, Any] = {}
    for _ in range(method.passes):
        sums: dict[str, Tensor] = {}
        for name, base, tensors in stream():
            for key, counts in method.survey(name, base, tensors, known).items():
                sums[key] = sums[key] + counts if key in sums else counts
        known |= method.surveyed(sums, known, each)
    return known
