"""A model under other names: its tensors as they are, or tensors that are made of them when they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.weights.source import Buffer, Entry, Source

Array = NDArray[np.float32]


class View(Source):
    """Another source under other names. `names`: name shown -> the source's own. Its files stay the source's."""

    def __init__(self, source: Source, names: Mapping[str, str]):
        self.source, self.names = source, dict(names)
        self.folder, self.ref, self.origin, self.licence = source.folder, source.ref, source.origin, source.licence
        self.config = source.config
        self.entries = {n: source.entries[own] for n, own in self.names.items()}

    def stored_type(self, name: str) -> str:
        return self.source.stored_type(self.names[name])

    def touches(self, name: str) -> bool:
        return self.source.touches(self.names[name])

    def fill(self, name: str, start: int, out: Buffer) -> None:
        self.source.fill(self.names[name], start, out)

    def raw(self, name: str) -> bytes:
        return self.source.raw(self.names[name])

    def ahead(self, name: str) -> None:
        if name in self.names:
            self.source.ahead(self.names[name])

    def hash(self) -> str:
        return self.source.hash()

    def stamp(self) -> list[Any]:
        return self.source.stamp()

    def open(self) -> None:
        self.source.open()

    def close(self) -> None:
        self.source.close()


class Made(View):
    """A view some of whose tensors are made. `recipes`: name shown -> the recipe's key; `make` gives, for a key, its
    tensors by the name shown; `shapes` and `types` (as the files store them) say what comes out.

    What was made last is kept, for tensors that one recipe gives several of.
    """

    KEPT = 2

    def __init__(
        self,
        source: Source,
        names: Mapping[str, str],
        recipes: Mapping[str, Hashable],
        make: Callable[[Hashable], Mapping[str, Array]],
        shapes: Mapping[str, tuple[int, ...]],
        types: Mapping[str, str],
    ):
        super().__init__(source, names)
        self.recipes, self._make, self._types = dict(recipes), make, dict(types)
        self.entries |= {n: Entry("F32", shapes[n]) for n in recipes}
        self._kept: OrderedDict[Hashable, Mapping[str, Array]] = OrderedDict()
        self._lock = threading.Lock()

    def stored_type(self, name: str) -> str:
        return self._types[name] if name in self.recipes else super().stored_type(name)

    def touches(self, name: str) -> bool:
        return name in self.recipes or super().touches(name)

    def fill(self, name: str, start: int, out: Buffer) -> None:
        if name not in self.recipes:
            super().fill(name, start, out)
            return
        out[:] = self._made(name).reshape(-1)[start : start + len(out)]

    def _made(self, name: str) -> Array:
        key = self.recipes[name]
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._make(key)
                while len(self._kept) > self.KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key][name]
