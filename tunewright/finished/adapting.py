"""A finished run's model that goes on adapting while it answers: inputs in, classes out, in the order they come.

with tunewright.open_run("runs/digits").adapting("tent") as stream:
    for batch in batches:
        print(stream.answer(batch))
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunewright import catalogue
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.errors import DataError, MethodError
from tunewright.finished.finished import Finished
from tunewright.measure.adapting import Guard, Restored, Stream
from tunewright.recipe import MethodUse


@dataclass
class Answer:
    """What one input was answered: the class, and its probability."""

    label: str
    confidence: float


@dataclass
class Adapting:
    """A stream of a finished run's model. A context: the model is as it was, bit for bit, when the block ends.

    MethodError where the run's model has no classes, or the method cannot work on it.
    """

    finished: Finished
    use: MethodUse
    reset: Any = None
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        f = self.finished
        if not f.task.classifies:
            raise MethodError(
                f"a model of {f.task.name} has no classes that a stream could be answered by",
                where=str(f.folder),
                remedy="call generate or chat",
            )
        cls = catalogue.load_method(self.use.name)
        if "adapt" not in cls.slots():
            raise MethodError(
                f"'{self.use.name}' does nothing at test time: it fills {', '.join(cls.slots())}",
                remedy="`tunewright methods` lists those under methods/test_time",
            )
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Adapting:
        f = self.finished
        self._stack.enter_context(f.adapted.at_strength(1.0))
        method = catalogue.build(self.use)
        seed = int(f.recipe.train.seed)
        try:
            stream = Stream(self.use.name, method, f.adapted, f.task, seed, self.reset, self.guard)
            self._stream = self._stack.enter_context(stream)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer(self, inputs: Sequence[Any]) -> list[Answer]:
        """The classes of one batch of inputs: texts, pictures (paths, bytes, PIL pictures or pixels), or columns.

        DataError names an input that cannot be read. What comes later may be answered by other weights.
        """
        rows = [self._row(given, self._count + i) for i, given in enumerate(inputs)]
        self._count += len(rows)
        if not rows:
            return []
        names, stream = self._names, self._stream
        parts = stream.batches(rows, len(rows), mixed=True)  # one by one where every row begins anew
        shares, chosen = torch.cat([stream.answer(part) for part in parts]).float().softmax(-1).max(-1)
        return [Answer(str(names[i]), p) for i, p in zip(chosen.tolist(), shares.tolist(), strict=True)]

    @property
    def restored(self) -> list[Restored]:
        """When the guard put the run's weights back, and why."""
        return list(self._stream.restored)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(JSON, tensors) of how far the stream is, for `resume` in another process."""
        data, tensors = self._stream.state()
        return {**data, "count": self._count}, tensors

    def resume(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on where `state` was taken, to the same bits."""
        self._count = data["count"]
        self._stream.resume(data, tensors)

    @property
    def _names(self) -> dict[int, str]:
        config: Any = self.finished.adapted.model.config
        return dict(config.id2label)

    def _row(self, given: Any, number: int) -> Row:
        f = self.finished
        column = "image" if f.task.is_a("image-classification") else "text"
        columns = dict(given) if isinstance(given, dict) and column in given else {column: given}
        # a task encodes rows with a class; the stream drops whatever it is
        record = Record({**columns, "label": str(self._names[0])}, id=f"stream:{number}", source="stream")
        reader = f.tokenizer if f.tokenizer is not None else f.loaded.processor
        try:
            return f.task.encode(record, reader, f.options)
        except RowProblem as problem:
            raise DataError(problem.reason, where=f"input {number}", remedy=problem.remedy) from None
