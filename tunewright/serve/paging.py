"""Which adapters are on the model: those of the rows that are written, and the ones used last while there is room."""

from __future__ import annotations

from collections import Counter, OrderedDict

from tunewright.models.adapted import Adapted
from tunewright.models.lanes import Lanes
from tunewright.serve.adapters import Variant

PAPERS = ("s-lora",)


class Active:
    """At most `most` variants and `limit` bytes of them; those without rows go first, the longest unused before."""

    def __init__(self, adapted: Adapted, most: int, limit: int):
        self.lanes, self.most, self.limit = Lanes(adapted), most, limit
        self._there: OrderedDict[Variant, int] = OrderedDict()  # bytes
        self._rows: Counter[Variant] = Counter()

    @property
    def bytes(self) -> int:
        return sum(self._there.values())

    def fits(self, variant: Variant | None) -> bool:
        """Whether a row with it could be seated now; one that is alone always can."""
        if variant is None or variant in self._there:
            return True
        used = [b for v, b in self._there.items() if self._rows[v]]
        return not used or (len(used) < self.most and sum(used) + variant.adapter.bytes <= self.limit)

    def take(self, variant: Variant | None) -> None:
        """A row more that has it."""
        if variant is None:
            return
        if variant not in self._there:
            self._make_room(variant.adapter.bytes)
            self.lanes.add(variant.key, variant.deltas(self.lanes.adapted.device))
            self._there[variant] = variant.adapter.bytes
        self._there.move_to_end(variant)
        self._rows[variant] += 1

    def release(self, variant: Variant | None) -> None:
        """A row less that has it."""
        if variant is not None:
            self._rows[variant] -= 1
            if not self._rows[variant]:
                del self._rows[variant]  # a count of none would keep the adapter in memory

    def order(self, variant: Variant | None) -> tuple[int, int]:
        """Rows in this order are written with the fewest products."""
        return self.lanes.order(None if variant is None else variant.key)

    def _make_room(self, size: int) -> None:
        for variant in [v for v in self._there if not self._rows[v]]:
            if len(self._there) < self.most and self.bytes + size <= self.limit:
                return
            self.lanes.remove(variant.key)
            del self._there[variant]
