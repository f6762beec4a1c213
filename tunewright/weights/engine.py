"""One merge's models: sources opened, names agreed, the result's tensors known, and each made when asked for.

What a thread holds does not grow with the number or size of models where a kernel serves the method; other methods hold
one tensor of every model in float32. The result's bits depend neither on threads nor on shards.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright import __version__
from tunewright.errors import FolderError, MethodError, ModelError, NonFiniteError, RecipeError
from tunewright.weights import _plain, fast, names
from tunewright.weights.opening import open_source
from tunewright.weights.request import DTYPES, Part, Request
from tunewright.weights.resolving import Operator
from tunewright.weights.settings import Depths
from tunewright.weights.source import FLOATS, SIZES, Entry, Source, Tuned
from tunewright.weights.then import Then

FORMAT = 1  # part of a merge's key: raised when the engine gives other bits
LARGE = 64 * 2**20  # values; merges without a kernel take tensors of that many in all models one at a time


class Engine:
    """One merge: sources opened, names agreed, output laid out."""

    def __init__(self, request: Request):
        self.request, self.operator = request, Operator(request)
        if not request.models:
            raise RecipeError(
                "there is no model to merge",
                where=request.where,
                remedy="name models: tunewright merge A B --method linear --out DIR",
            )
        if request.dtype is not None and request.dtype not in DTYPES:
            raise RecipeError(
                f"'{request.dtype}' is no type that results are stored in",
                where=f"{request.where}: dtype",
                remedy="write " + ", ".join(DTYPES),
            )
        self.base, self.parts, self.models = self._open()
        self.sources: list[Source] = [*([self.base] if self.base else []), *self.models]
        self._check_folders()
        self.like = self.base or self.models[0]
        self.entries = names.agreed(self.sources)
        self.notes = names.check_vocabularies(self.sources)
        self.depths = Depths(list(self.entries))
        self.stored = {n: Entry(self._dtype(n, e), e.shape) for n, e in self.entries.items() if self._kept(n)}
        if not self.stored:
            raise ModelError("no tensor differs from the base", remedy="merge models that were tuned")
        self.learned: dict[str, Any] = {}
        self._lost: dict[str, int] = {}  # values of inputs that are not finite, by tensor
        self.then = Then(request, self.base is not None)
        self._rooms = threading.local()
        self._large = threading.Lock()

    def _open(self) -> tuple[Source | None, list[Part], list[Source]]:
        request, op = self.request, self.operator
        parts, base_kind = list(op.parts), op.fields.base
        listed = request.base is not None and any(same_model(p.ref, request.base) for p in parts)
        if request.base is not None and base_kind == "none" and listed:
            parts.sort(key=lambda p: not same_model(p.ref, request.base))
        elif request.base is not None and base_kind != "none":
            parts = [p for p in parts if not same_model(p.ref, request.base)]
        op.check_count(len(parts), request.base is not None)
        base = open_source(request.base) if request.base is not None and base_kind != "none" else None
        return base, parts, [open_source(p.ref, request.base) for p in parts]

    def _check_folders(self) -> None:
        out = self.request.out.resolve()
        for s in self.sources:
            folder = s.folder.resolve()
            if out == folder or out in folder.parents or folder in out.parents:
                raise FolderError(
                    f"the output is (in) the folder of the input '{s.ref}'",
                    where=str(self.request.out),
                    remedy="give another folder",
                )

    def _dtype(self, name: str, entry: Entry) -> str:
        if not entry.floats:
            return entry.dtype
        if self.request.dtype is not None:
            return DTYPES[self.request.dtype]
        like = self.like.base if isinstance(self.like, Tuned) else self.like
        return like.entries[name].dtype

    def _kept(self, name: str) -> bool:
        """Whether a tensor is part of the result: a delta leaves out what no model changed."""
        if self.request.kind == "model":
            return True
        unchanged = all(isinstance(s, Tuned) and name not in s.changes for s in self.models)
        return self.entries[name].floats and not unchanged

    def key(self) -> str:
        """What makes two merges the same: the request, the inputs' files, the engine."""
        r = self.request
        asked = [
            r.method,
            r.base,
            r.dtype,
            r.kind,
            r.shard_size,
            r.tokenizer,
            r.seed,
            [[n, dict(p)] for n, p in r.then],
            dict(r.parameters),
            r.mergekit,
            [[p.ref, dict(p.parameters)] for p in r.models],
        ]
        text = json.dumps([FORMAT, __version__, asked, [s.stamp() for s in self.sources]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    # -- one tensor ------------------------------------------------------------------------------------------------

    def tensor(self, name: str, put: Callable[[int, Any], None]) -> None:
        """Make one tensor of the result; `put(first byte, data)` takes it.

        NonFiniteError names a tensor that is not finite.
        """
        entry = self.entries[name]
        if not entry.floats:
            put(0, self._equal(name))
            return
        bad = self._by_kernel(name, put) if self.operator.fast else self._by_method(name, put)
        if bad:
            raise NonFiniteError(
                f"{bad} values of '{name}' are not finite, in an input or after the merge",
                where=str(self.request.out),
                remedy="check that the inputs are finite; smaller weights, or dtype: float32",
            )

    def _equal(self, name: str) -> bytes:
        first = self.sources[0].raw(name)
        if any(s.entries[name].dtype != self.entries[name].dtype or s.raw(name) != first for s in self.sources[1:]):
            raise ModelError(
                f"the integer tensor '{name}' differs between the models", remedy="merge fine-tunings of one base"
            )
        return first

    def _by_kernel(self, name: str, put: Callable[[int, Any], None]) -> int:
        own, each = self.operator.at(name, self.depths.place(name), self.parts)
        with_base = self.operator.fields.base == "needed"
        sources = self.sources if with_base else self.models
        count, stored = self.entries[name].count, self.stored[name].dtype
        if not count:
            return 0
        kind: Any = np.uint16 if all(s.entries[name].dtype == "BF16" for s in sources) else np.float32
        direct = {"BF16": np.uint16, "F32": np.float32}.get(stored)
        if not hasattr(self._rooms, "room"):
            self._rooms.room = fast.Workspace()

        def take(start: int, out: NDArray[Any]) -> None:
            put(start * SIZES[stored], out if direct else out.astype(FLOATS[stored]))

        fills = [partial(s.fill, name) for s in sources]
        return fast.run(
            self.operator.name, own, each, self._rooms.room, fills, count, (kind, direct or np.float32), take
        )

    def _tensors(self, name: str) -> tuple[Any, list[Any]]:
        import torch

        def whole(s: Source) -> torch.Tensor:
            return torch.from_numpy(s.whole(name))

        return None if self.base is None else whole(self.base), [whole(s) for s in self.models]

    def _by_method(self, name: str, put: Callable[[int, Any], None]) -> int:
        shape, stored = self.stored[name].shape, self.stored[name].dtype
        large = self.entries[name].count * len(self.sources) > LARGE
        with self._large if large else nullcontext():
            merged = self._made(name)
            if tuple(merged.shape) != shape:
                raise ModelError(
                    f"'{self.operator.name}' made '{name}' of {tuple(merged.shape)}, and {shape} is due",
                    remedy="a fault of the method: report it",
                )
            values = np.ascontiguousarray(merged.detach().float().numpy()).reshape(-1)
            out: NDArray[Any] = np.empty(len(values), np.uint16 if stored == "BF16" else np.float32)
            bad = _plain.store(values, out)
            put(0, out if stored in ("BF16", "F32") else out.astype(FLOATS[stored]))
            return bad + self._lost.get(name, 0)

    def reshape(self) -> None:
        """Learn the result's shapes from a method that changes widths, by making every tensor once."""
        for name, entry in self.stored.items():
            if entry.floats:
                self.stored[name] = Entry(entry.dtype, tuple(self._made(name).shape))

    def _made(self, name: str) -> Any:
        base, tensors = self._tensors(name)
        return self.then.apply(name, base, self._mixed(name, base, tensors), self.depths.depth(name))

    def merged(self) -> Iterator[tuple[Any, Sequence[Any], Any]]:
        """(base, models, merge before any edit) of every tensor, fp32."""
        for name, entry in self.entries.items():
            if entry.floats:
                base, tensors = self._tensors(name)
                yield base, tensors, self._mixed(name, base, tensors)

    def _mixed(self, name: str, base: Any, tensors: Sequence[Any]) -> Any:
        from tunewright.contract.method import Needs
        from tunewright.weights.operator import merge_one

        own, each = self.operator.at(name, self.depths.place(name), self.parts)
        method = self.operator.method(own, each)
        needs, depth = Needs(self.learned), self.depths.depth(name)
        merged = merge_one(method, name, base, tensors, each=each, depth=depth, seed=self.request.seed, needs=needs)
        if lost := sum(int((~t.isfinite()).sum()) for t in tensors):
            self._lost[name] = lost
        return merged

    def survey(self) -> None:
        """What a method must know of whole models before the first tensor."""
        from tunewright.weights.survey import survey

        own, each = self.operator.at("", 0.0, self.parts)
        method = self.operator.method(own, each)

        def stream() -> Iterator[tuple[str, Any, Sequence[Any]]]:
            for name, entry in self.entries.items():
                if entry.floats:
                    yield (name, *self._tensors(name))

        self.learned |= survey(method, stream, each)
        if method.picks:
            method.pick(len(self.models), self._no_score)

    def _no_score(self, indices: Sequence[int]) -> float:
        raise MethodError(
            f"'{self.operator.name}' chooses by a held-out score, and a merge of folders has none",
            where=self.request.where,
            remedy="write it under after: in a recipe with data.validation",
        )


def same_model(a: str, b: str | None) -> bool:
    return b is not None and (
        a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve())
    )
