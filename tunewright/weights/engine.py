"""One merge's models: sources opened, names agreed, the result's tensors known, and each made when asked for.

What a thread holds does not grow with the number or size of models where a kernel serves the method; other methods hold
one tensor of every model in float32. The result's bits depend neither on threads nor on shards.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright import __version__
from tunewright.errors import FolderError, MethodError, ModelError, NonFiniteError, RecipeError
from tunewright.weights import _plain, configs, fast, names, reading, sections, vocabulary
from tunewright.weights.opening import open_source
from tunewright.weights.request import DTYPES, Part, Request, same_model
from tunewright.weights.resolving import Operator
from tunewright.weights.sections import Span
from tunewright.weights.settings import Depths
from tunewright.weights.source import FLOATS, SIZES, Entry, Source
from tunewright.weights.then import Then

FORMAT = 2  # part of a merge's key: raised when the engine gives other bits
LARGE = 64 * 2**20  # values; merges without a kernel take tensors of that many in all models one at a time


class Engine:
    """One merge: sources opened, names agreed, output laid out.

    `base`, `parts` and `models` are those of the whole merge, or of its first section, as they were opened; `spans` say
    which models make which tensors. `config` is the result's config.json, and `like` the model that it comes from.
    """

    def __init__(self, request: Request):
        self.request, self.operator = request, Operator(sections.first_of(request))
        if request.kind == "delta" and (request.sections or request.vocabulary):
            raise RecipeError(
                "a delta changes the tensors of its base, and slices, modules and a tokenizer make others",
                where=request.where,
                remedy="leave --as delta out",
            )
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
        self._opened: dict[tuple[str, str | None], Source] = {}
        self.base, self.parts, self.models = self._open(sections.first_of(request), self.operator)
        for section in request.sections:
            asked = sections.request_of(request, section)
            self._open(asked, Operator(asked))
        self.sources = list(self._opened.values())
        self._check_folders()
        reading.adopt(self.base, self.models)
        self.like = self.base or self.models[0]
        self.config: dict[str, Any] = copy.deepcopy(self.like.config)
        self.table, notes = reading.agreed_layout(self.models, allow=request.allow_crimes)
        self.notes = [*request.notes, *self._configs(), *notes]
        self.spans = self._spans()
        self._of = {n: span for span in self.spans for n in span.entries}
        self.entries = {n: e for span in self.spans for n, e in span.entries.items()}
        self.depths = Depths(list(self.entries))
        self.stored = {n: Entry(self._dtype(n, e), e.shape) for n, e in self.entries.items() if self._kept(n)}
        if not self.stored:
            raise ModelError("no tensor differs from the base", remedy="merge models that were tuned")
        self.learned: dict[str, Any] = {}
        self._lost: dict[str, int] = {}  # values of inputs that are not finite, by tensor
        self.then = Then(request, self.base is not None)
        self._rooms = threading.local()
        self._large = threading.Lock()

    def _open(self, request: Request, op: Operator) -> tuple[Source | None, list[Part], list[Source]]:
        parts, base_kind = list(op.parts), op.fields.base
        listed = request.base is not None and any(same_model(p.ref, request.base) for p in parts)
        if request.base is not None and base_kind == "none":
            if not listed and request.mergekit and all(p.layers is None for p in parts):
                parts.insert(0, Part(request.base))  # as mergekit has it: an input like the others, slerp's first
            parts.sort(key=lambda p: not same_model(p.ref, request.base))
        elif request.base is not None:
            parts = [p for p in parts if not same_model(p.ref, request.base)]
        op.check_count(len(parts), request.base is not None)
        base = self._source(request.base) if request.base is not None and base_kind != "none" else None
        return base, parts, [self._source(p.ref, request.base) for p in parts]

    def _source(self, ref: str, base: str | None = None) -> Source:
        """A model, opened once."""
        known = self._opened.get((ref, base)) or self._opened.get((ref, None))
        if known is None:
            known = self._opened[ref, base] = open_source(ref, base)
        return known

    def _spans(self) -> list[Span]:
        """The models under common names, with rows of one vocabulary, as the parts of the result that they make."""
        agreement = names.aligned(self.sources, one_model=not self.request.sections)
        self.notes += agreement.notes
        self.alike = agreement.alike
        if agreement.untied:
            vocabulary.untie(self.config)
        rows = self.rows = None if self.request.vocabulary is None else vocabulary.Rows(self.request, self.sources)
        if rows is None:
            self.notes += names.check_vocabularies(self.sources)
        else:
            rows.resized(self.config)
        seen = dict(zip(map(id, self.sources), agreement.sources, strict=True))

        def opened(request: Request, op: Operator) -> tuple[Source | None, list[Part], list[Source]]:
            base, parts, models = self._open(request, op)
            all_of = [*([base] if base else []), *models]
            views = [seen[id(s)] for s in all_of]
            views = views if rows is None else rows.shown(all_of, views)
            return views.pop(0) if base else None, parts, views

        if self.request.sections:
            return sections.spans(self.request, opened, self.config)
        base, parts, models = opened(self.request, self.operator)
        return [sections.whole(self.operator, base, parts, models)]

    def _configs(self) -> list[str]:
        request, like = self.request, self.like
        return configs.check(self.sources, allow=request.allow_crimes, sliced=bool(request.sections), result=like)

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
        return self._of[name].sources[0].stored_type(name)

    def _kept(self, name: str) -> bool:
        """Whether a tensor is part of the result: a delta leaves out what no model changed."""
        if self.request.kind == "model":
            return True
        unchanged = not any(s.touches(name) for s in self._of[name].models)
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
            [[x.module, x.base, dict(x.parameters), [astuple(p) for p in x.models]] for x in r.sections],
            r.vocabulary and astuple(r.vocabulary),
            r.chat_template,
            r.allow_crimes,
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
        sources = self._of[name].sources
        first = sources[0].raw(name)
        if any(s.entries[name].dtype != self.entries[name].dtype or s.raw(name) != first for s in sources[1:]):
            raise ModelError(
                f"the integer tensor '{name}' differs between the models", remedy="merge fine-tunings of one base"
            )
        return first

    def _by_kernel(self, name: str, put: Callable[[int, Any], None]) -> int:
        span = self._of[name]
        own, each = span.parameters(name)
        sources = span.sources if self.operator.fields.base == "needed" else span.models
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

        span = self._of[name]
        return None if span.base is None else whole(span.base), [whole(s) for s in span.models]

    def _by_method(self, name: str, put: Callable[[int, Any], None]) -> int:
        shape, stored = self.stored[name].shape, self.stored[name].dtype
        large = self.entries[name].count * len(self._of[name].sources) > LARGE
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

        span, named = self._of[name], self.alike.get(name, name)  # what equals another tensor is drawn as that one is
        own, each = span.parameters(named)
        method = span.operator.method(own, each)
        needs, depth = Needs(self.learned), self.depths.depth(name)
        merged = merge_one(method, named, base, tensors, each=each, depth=depth, seed=self.request.seed, needs=needs)
        if lost := sum(int((~t.isfinite()).sum()) for t in tensors):
            self._lost[name] = lost
        return merged

    def survey(self) -> None:
        """What a method must know of whole models before the first tensor."""
        from tunewright.weights.survey import survey

        own, each = self.operator.at("", 0.0, self.spans[0].parts)
        method = self.operator.method(own, each)
        if method.passes and len(self.spans) > 1:
            raise MethodError(
                f"'{self.operator.name}' looks at whole models first, and this merge has {len(self.spans)} parts",
                where=self.request.where,
                remedy="merge whole models, or write over: tensor",
            )

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
