"""The merge engine: whole models of any size through one operator, tensor by tensor.

Each thread takes one tensor at a time: it reads ranges of all models into its own buffers, computes, and writes to the
tensor's place in the result, so that reading, computing and writing overlap over threads. What a thread holds does not
grow with the number or size of models where a kernel serves the method; other methods hold one tensor of every model in
float32. The result's bits depend neither on threads nor on shards. What is staged is checked before it takes its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright import __version__
from tunewright.errors import FolderError, MethodError, ModelError, NonFiniteError, RecipeError
from tunewright.weights import _plain, card, checks, fast, names
from tunewright.weights.request import DTYPES, Operator, Part, Request
from tunewright.weights.settings import Depths
from tunewright.weights.source import FLOATS, SIZES, Entry, Source, Tuned, open_source
from tunewright.weights.then import Then
from tunewright.weights.write import Staging, lay_out

FORMAT = 1  # part of a merge's key: raised when the engine gives other bits
LARGE = 64 * 2**20  # values; merges without a kernel take tensors of that many in all models one at a time


@dataclass
class Merged:
    """A result: its folder, how many tensors and values, seconds (the checking forward pass apart), what to know."""

    folder: Path
    tensors: int
    values: int
    seconds: float
    forward_seconds: float | None
    reused: int
    notes: list[str] = field(default_factory=list)


class Engine:
    """One merge: sources opened, names agreed, output laid out."""

    def __init__(self, request: Request):
        self.request, self.operator = request, Operator(request)
        if not request.models:
            raise RecipeError("there is no model to merge", where=request.where, remedy="name models: tunewright merge A B --method linear --out DIR")
        if request.dtype is not None and request.dtype not in DTYPES:
            raise RecipeError(f"'{request.dtype}' is no type that results are stored in", where=f"{request.where}: dtype", remedy="write " + ", ".join(DTYPES))
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
        parts = list(request.models)
        listed = request.base is not None and any(_same(p.ref, request.base) for p in parts)
        if request.base is not None and op.base == "none" and listed:
            parts.sort(key=lambda p: not _same(p.ref, request.base))
        elif request.base is not None and op.base != "none":
            parts = [p for p in parts if not _same(p.ref, request.base)]
        op.check_count(len(parts), request.base is not None)
        base = open_source(request.base) if request.base is not None and op.base != "none" else None
        return base, parts, [open_source(p.ref, request.base) for p in parts]

    def _check_folders(self) -> None:
        out = self.request.out.resolve()
        for s in self.sources:
            folder = s.folder.resolve()
            if out == folder or out in folder.parents or folder in out.parents:
                raise FolderError(f"the output is (in) the folder of the input '{s.ref}'", where=str(self.request.out), remedy="give another folder")

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
        """Make one tensor of the result; `put(first byte, data)` takes it. NonFiniteError names a tensor that is not finite."""
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
            raise ModelError(f"the integer tensor '{name}' differs between the models", remedy="merge fine-tunings of one base")
        return first

    def _by_kernel(self, name: str, put: Callable[[int, Any], None]) -> int:
        own, each = self.operator.at(name, self.depths.place(name), self.parts)
        with_base = self.operator.base == "needed"
        sources = self.sources if with_base else self.models
        count, stored = self.entries[name].count, self.stored[name].dtype
        if not count:
            return 0
        kind: Any = np.uint16 if all(s.entries[name].dtype == "BF16" for s in sources) else np.float32
        direct = {"BF16": np.uint16, "F32": np.float32}.get(stored)
        if not hasattr(self._rooms, "room"):
            self._rooms.room = fast.Room()

        def take(start: int, out: NDArray[Any]) -> None:
            put(start * SIZES[stored], out if direct else out.astype(FLOATS[stored]))

        fills = [partial(s.fill, name) for s in sources]
        return fast.run(self.operator.name, own, each, self._rooms.room, fills, count, (kind, direct or np.float32), take)

    def _tensors(self, name: str) -> tuple[Any, list[Any]]:
        import torch

        def whole(s: Source) -> torch.Tensor:
            return torch.from_numpy(s.whole(name))

        return None if self.base is None else whole(self.base), [whole(s) for s in self.models]

    def _by_method(self, name: str, put: Callable[[int, Any], None]) -> int:
        shape, stored = self.stored[name].shape, self.stored[name].dtype
        large = self.entries[name].count * len(self.sources) > LARGE
        with self._large if large else nullcontext():
            made = self._made(name)
            if tuple(made.shape) != shape:
                raise ModelError(f"'{self.operator.name}' made '{name}' of {tuple(made.shape)}, and {shape} is due", remedy="a fault of the method: report it")
            values = np.ascontiguousarray(made.detach().float().numpy()).reshape(-1)
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
        from tunewright.method import Needs
        from tunewright.weights.operator import merge_one

        own, each = self.operator.at(name, self.depths.place(name), self.parts)
        method = self.operator.method(own)
        each = [{_field(method, k): v for k, v in e.items()} for e in each]
        needs, depth = Needs(self.learned), self.depths.depth(name)
        made = merge_one(method, name, base, tensors, each=each, depth=depth, seed=self.request.seed, needs=needs)
        if lost := sum(int((~t.isfinite()).sum()) for t in tensors):
            self._lost[name] = lost
        return made

    def survey(self) -> None:
        """What a method must know of whole models before the first tensor."""
        from tunewright.weights.survey import survey

        own, each = self.operator.at("", 0.0, self.parts)
        method = self.operator.method(own)

        def stream() -> Iterator[tuple[str, Any, Sequence[Any]]]:
            for name, entry in self.entries.items():
                if entry.floats:
                    yield (name, *self._tensors(name))

        self.learned |= survey(method, stream, each)
        if hasattr(method, "pick"):
            method.pick(len(self.models), self._no_score)

    def _no_score(self, indices: Sequence[int]) -> float:
        raise MethodError(
            f"'{self.operator.name}' chooses by a held-out score, and a merge of folders has none",
            where=self.request.where,
            remedy="write it under after: in a recipe with data.validation",
        )


def _field(method: Any, name: str) -> str:
    """The field of a parameter's written name."""
    return next((n for n, info in type(method).model_fields.items() if info.alias == name), name)


def _same(a: str, b: str | None) -> bool:
    return b is not None and (a == b or (Path(a).exists() and Path(b).exists() and Path(a).resolve() == Path(b).resolve()))


def merge(request: Request, *, forward: bool = True, learn: Callable[[Engine], dict[str, Any]] | None = None) -> Merged:
    """Run a merge and give its result the name `request.out`.

    `forward`: also load the result with transformers in a process of its own and run a few tokens through it. `learn`
    gives what a method that learns from rows must know. Errors leave nothing under the final name; after a kill the
    same request goes on where it was. Raises RecipeError, MethodError, ModelError, NonFiniteError and FolderError.
    """
    began = time.perf_counter()
    engine = Engine(request)
    checker = None
    if request.kind == "model" and forward:
        size = sum(e.count * SIZES[e.dtype] for e in engine.stored.values())
        checker = checks.Checker(size, engine.like.config.get("architectures") or [])
    try:
        return _merged(engine, began, checker, learn)
    finally:
        if checker is not None:
            checker.close()
        for s in engine.sources:
            s.close()


def _prepare(engine: Engine, learn: Callable[[Engine], dict[str, Any]] | None) -> None:
    """What must be known before the first tensor."""
    op = engine.operator
    if op.learns:
        if learn is None:
            raise MethodError(f"'{op.name}' learns from rows, and none are given", remedy="give rows and their task: --data FILE --task text-generation")
        engine.learned = learn(engine)
        if engine.learned.get("config"):
            engine.reshape()
    elif op.fast is None:
        engine.survey()
    engine.then.survey(engine.merged)


def _merged(engine: Engine, began: float, checker: checks.Checker | None, learn: Callable[[Engine], dict[str, Any]] | None) -> Merged:
    _prepare(engine, learn)
    request = engine.request
    named = {_prefix(request) + n: e for n, e in engine.stored.items()}
    places, headers = lay_out(named, request.shard_size if request.kind == "model" else 2**62, "model" if request.kind == "model" else "delta")
    staging = Staging(request.out, engine.key(), places, headers)
    took = None
    try:
        reused = _write(engine, staging)
        staging.index()
        _beside(engine, staging.folder)
        seconds = time.perf_counter() - began
        if checker is not None:
            engine.notes += checker.check(staging.folder)
            took = time.perf_counter() - began - seconds
        staging.publish()
    except BaseException as e:
        staging.discard() if isinstance(e, Exception) else staging.close()
        raise
    seconds = time.perf_counter() - began - (took or 0)
    return Merged(request.out, len(named), sum(e.count for e in named.values()), seconds, took, reused, engine.notes)


def _prefix(request: Request) -> str:
    return "value:" if request.kind == "delta" else ""


def _write(engine: Engine, staging: Staging) -> int:
    """All tensors that are not there yet, shard by shard, the largest first; how many were there."""
    prefix = _prefix(engine.request)
    todo = [n for n in engine.stored if staging.places[prefix + n].file not in staging.done]
    todo.sort(key=lambda n: (staging.places[prefix + n].file, -engine.stored[n].count))
    threads = engine.request.threads or len(os.sched_getaffinity(0))
    if engine.operator.fast:
        fast.kernels()  # one import, before threads ask for it
    for s in engine.sources:
        s.open()

    def one(i: int) -> None:
        name = todo[i]
        if i + threads < len(todo):
            for s in engine.sources:
                s.ahead(todo[i + threads])
        engine.tensor(name, partial(staging.write, prefix + name))
        staging.finished(prefix + name)

    with _few_torch_threads(engine.operator.fast is None), ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(one, i) for i in range(len(todo))]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for f in futures:
                f.cancel()
        for f in futures:
            if not f.cancelled():
                f.result()
    return len(engine.stored) - len(todo)


class _few_torch_threads:
    """Torch computes each tensor with one thread meanwhile: the pool has the cores, and bits do not depend on them."""

    def __init__(self, wanted: bool):
        self.wanted = wanted

    def __enter__(self) -> None:
        if self.wanted:
            import torch

            self.held = torch.get_num_threads()
            torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        if self.wanted:
            import torch

            torch.set_num_threads(self.held)


def _beside(engine: Engine, folder: Path) -> None:
    """What stands beside the weights."""
    request = engine.request
    if request.kind == "delta":
        checks.write_delta(engine, folder)
        return
    reader = engine.like if request.tokenizer is None else next((s for s in engine.sources if _same(s.ref, request.tokenizer)), None)
    if reader is None:
        raise RecipeError(f"the tokenizer's model '{request.tokenizer}' is none of the merge's", where=request.where, remedy="name one of the models")
    stored = [e.dtype for e in engine.stored.values() if e.floats]
    card.write_beside(folder, engine.like, reader, max(set(stored), key=stored.count), engine.learned.get("config", {}))
    values = sum(e.count for e in engine.stored.values())
    (folder / "README.md").write_text(card.card_of(request, engine.sources, values, engine.notes), encoding="utf-8")
