"""The merge engine: whole models of any size through one operator, tensor by tensor.

Each thread takes one tensor at a time: it reads ranges of all models into its own buffers, computes, and writes to the
tensor's place in the result, so that reading, computing and writing overlap over threads. What is staged is checked
before it takes its name. `engine.py` makes the tensors.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError, RecipeError
from tunewright.loading.tables import TABLE_FILE, written
from tunewright.machine import host
from tunewright.weights import card, chat_templates, checks, fast
from tunewright.weights.engine import Engine
from tunewright.weights.request import Request, same_model
from tunewright.weights.source import SIZES
from tunewright.weights.write import Staging, lay_out


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
            raise MethodError(
                f"'{op.name}' learns from rows, and none are given",
                remedy="give rows and their task: --data FILE --task text-generation",
            )
        engine.learned = learn(engine)
        if engine.learned.get("config"):
            engine.reshape()
    elif op.fast is None:
        engine.survey()
    engine.then.survey(engine.merged)


def _merged(
    engine: Engine, began: float, checker: checks.Checker | None, learn: Callable[[Engine], dict[str, Any]] | None
) -> Merged:
    _prepare(engine, learn)
    request = engine.request
    named = {_prefix(request) + n: e for n, e in engine.stored.items()}
    places, headers = lay_out(
        named, request.shard_size if request.kind == "model" else 2**62, "model" if request.kind == "model" else "delta"
    )
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
    threads = engine.request.threads or host.usable_cores()
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


def _commonest(types: Sequence[str]) -> str:
    """The type of most tensors; of equally common ones the first, in every process the same."""
    return Counter(types).most_common(1)[0][0]


def _beside(engine: Engine, folder: Path) -> None:
    """What stands beside the weights."""
    request = engine.request
    if request.kind == "delta":
        checks.write_delta(engine, folder)
        return
    reader = (
        engine.like
        if request.tokenizer is None
        else next((s for s in engine.sources if same_model(s.ref, request.tokenizer)), None)
    )
    if reader is None:
        raise RecipeError(
            f"the tokenizer's model '{request.tokenizer}' is none of the merge's",
            where=request.where,
            remedy="name one of the models",
        )
    stored = [e.dtype for e in engine.stored.values() if e.floats]
    config = {**engine.config, **engine.learned.get("config", {})}
    card.write_beside(folder, config, engine.like, reader, _commonest(stored), engine.rows)
    if engine.table is not None:
        layout = {k: v for k, v in engine.table.items() if k != "task"}
        (folder / TABLE_FILE).write_text(written(layout, engine.table["task"]), encoding="utf-8")
    if request.chat_template is not None:
        note = chat_templates.write(folder, request.chat_template, engine.sources)
        engine.notes += [note] if note else []
    values = sum(e.count for e in engine.stored.values())
    (folder / "README.md").write_text(card.card_of(request, engine.sources, values, engine.notes), encoding="utf-8")
