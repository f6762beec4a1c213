"""Keys and values of prompts, kept for those that begin alike: a system turn, a conversation that goes on.

Kept in blocks of `BLOCK` tokens, each found by its own tokens and all before it, and by the adapter that read them;
those not used for longest go first. A block is copied into a row's seat, which is far cheaper than reading it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from tunewright.serve.adapters import Variant
from tunewright.serve.cache import Cache, Parts, Seat

BLOCK = 32


class Prefixes:
    """Blocks up to `limit` bytes; 0 keeps none."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._blocks: OrderedDict[bytes, Parts] = OrderedDict()

    def fill(self, variant: Variant | None, prompt: Sequence[int], seat: Seat) -> int:
        """Put what is known of a prompt into a row's seat; how many tokens that is. The last token is always read."""
        if not _reusable(variant):
            return 0
        for key, end in _keys(variant, prompt[:-1]):
            parts = self._blocks.get(key)
            if parts is None:
                break
            self._blocks.move_to_end(key)
            Cache.write(seat, end - BLOCK, parts)
            seat.used = end
        return seat.used

    def keep(self, variant: Variant | None, tokens: Sequence[int], seat: Seat) -> None:
        """Keep the whole blocks of what a row has read."""
        if not self.limit or not _reusable(variant):
            return
        for key, end in _keys(variant, tokens[: seat.used]):
            if key in self._blocks:
                self._blocks.move_to_end(key)
                continue
            parts = Cache.read(seat, end - BLOCK, end)
            self._blocks[key] = parts
            self.bytes += _size(parts)
        while self.bytes > self.limit:
            _, parts = self._blocks.popitem(last=False)
            self.bytes -= _size(parts)


def _reusable(variant: Variant | None) -> bool:
    return variant is None or not variant.adapter.reads_rows


def _keys(variant: Variant | None, tokens: Sequence[int]) -> Iterator[tuple[bytes, int]]:
    """(what a block is found by, where it ends) for each whole block: a digest of all up to its end, one that nobody
    can find another prompt for, so that no request reads what another's prompt said.
    """
    state = blake2b(b"" if variant is None else variant.key.encode(), digest_size=32)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        state.update(array("q", tokens[end - BLOCK : end]).tobytes())
        yield state.digest(), end


def _size(parts: Parts) -> int:
    return sum(k.nbytes + v.nbytes for _, k, v in parts)
