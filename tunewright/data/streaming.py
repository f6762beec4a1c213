"""Sources that are read while they are learnt from: some records at a time, never whole, in memory or on the disk.

A pass over a source goes through its shards (files, or the shards of a hub data set) one after the other, and cuts
their records into windows. A window's records are encoded together and its rows are given in an order of their own,
drawn from (seed, source, epoch, window) alone; so is the order of the shards. Where the reading stands is a shard, a
place in it and a row of the window, so that it goes on anywhere, to the bit, without reading what lies before.

The next window is read by a thread while the one at hand is learnt from, which changes no order.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.record_change import RecordChange
from tunewright.contract.records import Problem, Record, refuse
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data import store
from tunewright.data.encode import characters, encode_all
from tunewright.data.position import permutation
from tunewright.data.raw import Mark
from tunewright.data.read import Place, Read, Shard, SourceLike, records_in, shard_rows, shards_of
from tunewright.errors import DataError
from tunewright.files.cache import passing_folder

HEAD = 2000
"""Records of a streamed source that are read before training: what looks at its rows beforehand sees these."""
WINDOW = 10_000
"""Records that are shuffled together, unless a recipe says otherwise."""
CHARACTERS = 64 << 20
"""And about as many of their characters at most, so that a window of long texts stays small."""


@dataclass(frozen=True)
class Start:
    """Where a window begins: its number in the pass, the place of its shard in the pass's order, and how far that shard
    has been read.
    """

    number: int = 0
    shard: int = 0
    mark: Mark = field(default_factory=Mark)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Start:
        return cls(state["number"], state["shard"], Mark(**state["mark"]))


@dataclass(frozen=True)
class Window:
    """Encoded rows of some records, and where the next window begins."""

    start: Start
    rows: Sequence[Row]
    counts: dict[str, int]
    behind: Start


@dataclass(frozen=True)
class Stream:
    """How a source is read while it is learnt from.

    `skip_bad`: rows that cannot be used are left out and counted; otherwise the first window with one is refused.
    `change_rows`: what a stage makes of encoded rows, such as pairs.
    """

    name: str
    source: SourceLike
    place: Place
    task: Task
    tokenizer: Any
    options: EncodeOptions
    change: RecordChange | None = None
    window: int = WINDOW
    skip_bad: bool = False
    change_rows: Callable[[Sequence[Row]], Sequence[Row]] | None = None

    def read_as(self, change_rows: Callable[[Sequence[Row]], Sequence[Row]]) -> Stream:
        """The stream with its rows read otherwise."""
        return replace(self, change_rows=change_rows)

    def position(self, seed: int, shuffle: bool) -> Streamed:
        """The beginning of the stream."""
        return Streamed(self, seed, shuffle)

    def windows(self, seed: int, epoch: int, shuffle: bool, start: Start) -> Iterator[Window]:
        """The windows of a pass, from one on. DataError where a row cannot be used, or a file cannot be read."""
        shards = self._in_order(seed, epoch, shuffle)
        at = _Reading(self, shards, start)
        while True:
            begun = at.start
            records, problems = at.take()
            if not records and not problems:
                return
            yield self._encoded(begun, records, problems, at.start)

    def _in_order(self, seed: int, epoch: int, shuffle: bool) -> list[Shard]:
        shards = shards_of(self.place, self.source)
        if not shuffle:
            return shards
        return [shards[k] for k in permutation(len(shards), seed, f"{self.name}/shards", epoch)]

    def _encoded(self, start: Start, records: list[Record], problems: list[Problem], behind: Start) -> Window:
        folder = passing_folder("window")
        try:
            with store.Writer(folder / "rows") as writer:
                read = Read(self.place, records, problems)
                found = encode_all(read, self.task, self.tokenizer, self.options, self.change, writer)
                if found.problems and not self.skip_bad:
                    raise _bad(found.problems, self.name, found.counts["read"])
                writer.finish({})
            rows: Sequence[Row] = store.StoredRows(folder / "rows", self.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what is mapped stays until nobody reads it
        if self.change_rows is not None:
            rows = self.change_rows(rows)
        return Window(start, rows, found.counts, behind)


class _Reading:
    """Records of a pass, from a start on."""

    def __init__(self, stream: Stream, shards: Sequence[Shard], start: Start):
        self.stream, self.shards = stream, shards
        self.number, self.shard, self.mark = start.number, start.shard, replace(start.mark)
        self._problems = list[Problem]()
        self._open: Iterator[Record] | None = None

    @property
    def start(self) -> Start:
        return Start(self.number, self.shard, replace(self.mark))

    def take(self) -> tuple[list[Record], list[Problem]]:
        """The records of the next window, and what is wrong with those that have no shape; none at the end."""
        records, held = list[Record](), 0
        self._problems = []
        while len(records) < self.stream.window and held < CHARACTERS:
            record = self._next()
            if record is None:
                break
            records.append(record)
            held += characters(record)
        self.number += 1
        return records, self._problems

    def _next(self) -> Record | None:
        while self.shard < len(self.shards):
            if self._open is None:
                self._open = self._records(self.shards[self.shard])
            record = next(self._open, None)
            if record is not None:
                return record
            self.shard, self.mark, self._open = self.shard + 1, Mark(), None
        return None

    def _records(self, shard: Shard) -> Iterator[Record]:
        s = self.stream
        rows = shard_rows(shard, s.place, s.source, mark=self.mark)
        # a window's own list of problems, whichever is at hand when the row comes
        for row in rows:
            yield from records_in([row], s.place, s.source, self._problems)


def _bad(problems: Sequence[Problem], name: str, read: int) -> DataError:
    error = refuse(list(problems), name, read)
    return DataError(
        error.what,
        where=error.where,
        remedy="write bad_rows: skip under `data` of the recipe.yaml in the run's folder and `tunewright resume` it: "
        "such rows are left out and counted; a file that is mended is another one, for a new run",
    )


class Streamed:
    """A place in a stream: a window and a row of it. `passed`: rows of the last whole pass; 0 before one has ended.

    `ahead`: whether a thread reads the next window meanwhile. What became of the records of all windows that were
    begun is in `seen`.
    """

    def __init__(self, stream: Stream, seed: int, shuffle: bool, *, ahead: bool = True):
        self.stream, self.seed, self.shuffle, self.ahead = stream, seed, shuffle, ahead
        self.epoch = self.index = self.within = self.given = self.passed = 0
        self.seen = Counter[str]()
        self._start = Start()
        self._window: Window | None = None
        self._order: Sequence[int] = ()
        self._windows: Iterator[Window] | None = None
        self._coming: Future[Window | None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def passes(self) -> float:
        return self.epoch + (self.index / self.passed if self.passed else 0.0)

    def next(self) -> tuple[Hashable, Row]:
        while self._window is None or self.within >= len(self._order):
            if self._window is not None:
                self._start, self.within = self._window.behind, 0
            self._window = self._read()
            if self._window is not None:
                self.seen.update(self._window.counts)
                self._lay()
                continue
            if not self.index:
                raise DataError("no row of the stream can be used", where=self.stream.name, remedy="check its rows")
            self.passed, self.epoch, self.index = self.index, self.epoch + 1, 0
            self._start, self._order = Start(), ()
            self._restart()
        row = self._window.rows[self._order[self.within]]
        return row.id, row

    def advance(self) -> None:
        self.within, self.index, self.given = self.within + 1, self.index + 1, self.given + 1

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "index": self.index,
            "rows": self.given,
            "passed": self.passed,
            "window": self._start.as_json(),
            "begun": self._window is not None,
            "within": self.within,
            "counts": dict(self.seen),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.index, self.given = state["epoch"], state["index"], state["rows"]
        self.passed, self.within, self._start = state["passed"], state["within"], Start.of(state["window"])
        self.seen.clear()
        self.seen.update(state["counts"])
        self._window = None
        self._restart()
        if state["begun"]:  # its records are counted already
            self._window = self._read()
            if self._window is None:
                raise DataError(
                    "the source ends before the place that the run had come to",
                    where=self.stream.name,
                    remedy="resume with the data that the run began with",
                )
            self._lay()

    def _lay(self) -> None:
        assert self._window is not None
        count, number = len(self._window.rows), self._window.start.number
        name = f"{self.stream.name}/{number}"
        self._order = permutation(count, self.seed, name, self.epoch) if self.shuffle else range(count)

    def _restart(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            if not self._coming.cancelled():
                self._coming.exception()  # its reading is over before another begins
        self._windows = self._coming = None

    def _read(self) -> Window | None:
        """The window at `_start`; None at the end of the pass. The one behind it begins to be read."""
        if self._windows is None:
            self._windows = self.stream.windows(self.seed, self.epoch, self.shuffle, self._start)
        coming, self._coming = self._coming, None
        window = next(self._windows, None) if coming is None else coming.result()
        if window is not None and self.ahead:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "tunewright-stream")
            self._coming = self._thread.submit(next, self._windows, None)
        return window
