"""What an adapter puts before every row: virtual tokens, or keys and values of every layer.

Their places come first in a row's seat (0 ... n-1) and the row's own tokens follow, so that a step knows nothing of
them: keys and values are copied into the seat. Those of virtual tokens are not known when an adapter is read from
disk; the first row reads them as if they were tokens, and they are kept for the others.

Shapes: n virtual tokens, D embedding size, K layers, H key-value heads of size d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tunewright.models.adapted import Adapted
from tunewright.models.peft_prompts import TENSOR, read_before_rows
from tunewright.models.peft_tensors import read_tensors
from tunewright.models.prefix import sizes
from tunewright.serve.cache import Cache, Parts, Seat

VIRTUAL = -1
"""Stands for a virtual token among the ids of a row: no vocabulary has it."""


@dataclass(eq=False)
class Before:
    """`length` n; `vectors` [n, D] of virtual tokens, or `parts`, what a seat holds of them: one of the two is there
    from the start, and `parts` once a row has read them.
    """

    length: int
    vectors: Tensor | None = None
    parts: Parts | None = None

    @property
    def bytes(self) -> int:
        held = [] if self.vectors is None else [self.vectors]
        return sum(t.nbytes for t in (*held, *(t for _, k, v in self.parts or () for t in (k, v))))

    def begin(self, seat: Seat) -> None:
        """Put what is known into the seat of a row that has read less."""
        if self.parts is not None and seat.used < self.length:
            Cache.write(seat, 0, self.parts)
            seat.used = self.length

    def keep(self, seat: Seat) -> None:
        """Keep what a row has read for the next ones."""
        if self.parts is None and seat.used >= self.length:
            self.parts = Cache.read(seat, 0, self.length)


def read_before(folder: Path, adapted: Adapted) -> Before | None:
    """What a PEFT adapter's folder puts before rows; None for one that hangs on layers. ModelError as its reader."""
    found = read_before_rows(folder, adapted)
    if found is None:
        return None
    dtype, device = next(adapted.model.parameters()).dtype, adapted.device
    tensor = read_tensors(folder, adapted.base_hash)[TENSOR].to(device, dtype)
    if found.method != "prefix-tuning":
        return Before(len(tensor), vectors=tensor)
    layers, heads, size = sizes(adapted.model)
    pairs = tensor.view(len(tensor), layers, 2, heads, size).permute(1, 2, 3, 0, 4).contiguous()  # [K, 2, H, n, d]
    return Before(len(tensor), parts=[(i, key, value) for i, (key, value) in enumerate(pairs)])


def embedded(table: nn.Module, ids: Tensor, read: Sequence[tuple[Before | None, int, int]]) -> Tensor:
    """Embeddings [1, T, D] of the ids [1, T] of a step, virtual tokens among them. `read`: what stands before each run
    of tokens, the first of its places that is read, and how many are.
    """
    out: Tensor = table(ids.clamp(min=0))
    at = 0
    for before, start, n in read:
        if before is not None and before.vectors is not None and start < before.length:
            own = before.vectors[start : start + n]
            out[0, at : at + len(own)] = own
        at += n
    return out
