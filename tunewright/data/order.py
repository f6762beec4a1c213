"""In which order rows are learnt: one stream over weighted sources, cut into batches; deterministic and resumable.

Each source goes round in epochs, each with a permutation drawn from (seed, source, epoch) alone; the first epoch of one
whose rows a selector put in order goes through them as they stand. Which source gives the
next row is decided by tokens: the one whose given tokens lag most behind its share. The stream does not depend on
where batches end, so another batch size sees the same rows in the same order.

A batch ends before a row that it already holds, however many tokens it may take: with little data a step is an epoch at
most, never the same rows again and again. Replayed rows may repeat, since their share of the tokens is what was asked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Protocol

from tunewright.contract.batch import Row
from tunewright.data.position import Position, Stored
from tunewright.errors import CheckpointError, DataError, did_you_mean


class Source(Protocol):
    """What the cursor needs of a data set: `data.dataset.Dataset` is one. With a `stream`, `rows` are its first ones
    and those that are given come from the stream.
    """

    name: str
    hash: str

    @property
    def rows(self) -> Sequence[Row]: ...


def sizes(rows: Sequence[Row]) -> Sequence[int]:
    """Tokens of each row; where what holds the rows knows them (`lengths`), no row is made."""
    known: Sequence[int] | None = getattr(rows, "lengths", None)
    return known if known is not None else [row.size for row in rows]


def longest(rows: Sequence[Row]) -> int:
    """Tokens of the longest row; 1 of none."""
    return max((int(n) for n in sizes(rows)), default=1)


def natural_shares(tokens: Mapping[str, int]) -> dict[str, float]:
    """Shares of the tokens under which every row comes once per epoch."""
    total = sum(tokens.values())
    return {n: t / total for n, t in tokens.items()}


def with_replay(shares: Mapping[str, float], replay: Mapping[str, float]) -> dict[str, float]:
    """Add replayed sources: each takes its exact share of all tokens, the others keep their proportions in the rest."""
    rest, total = 1 - sum(replay.values()), sum(shares.values())
    if rest <= 0:
        raise DataError(
            f"replay takes {1 - rest:.0%} of the tokens and leaves nothing to learn",
            where="data.replay",
            remedy="let the shares sum to less than 1",
        )
    return {**{n: rest * s / total for n, s in shares.items()}, **replay}


class Cursor:
    """A place in the stream of rows. `weights` are shares of the tokens by source name, scaled to sum to 1.

    `batch_tokens` are real tokens (no padding). `next_batch` gives whole rows that fit, at least one. `epochs`: where
    to end, in passes over the rows that are not `replayed`; the last batch is cut there.
    """

    def __init__(
        self,
        datasets: Sequence[Source],
        weights: Mapping[str, float],
        *,
        seed: int,
        batch_tokens: int,
        shuffle: bool = True,
        epochs: float | None = None,
        replayed: Collection[str] = (),
    ):
        names = [d.name for d in datasets]
        if len(set(names)) < len(names):
            raise DataError(
                f"two sources are both called '{max(names, key=names.count)}'",
                where="data.train",
                remedy="give each path once, or move one file",
            )
        if not datasets or any(not len(d.rows) for d in datasets):
            raise DataError(
                "a source has no rows to learn from",
                where=next((d.name for d in datasets if not len(d.rows)), "data.train"),
                remedy="`tunewright check RECIPE` shows what became of its rows",
            )
        self.datasets = {d.name: d for d in datasets}
        self.seed, self.batch_tokens, self.shuffle = seed, batch_tokens, shuffle
        self.replayed = frozenset(replayed)
        own = sum(len(d.rows) for n, d in self.datasets.items() if n not in self.replayed)
        self.last = None if epochs is None else max(1, math.ceil(epochs * own - 1e-9))
        self.given = dict.fromkeys(names, 0)
        self._lag = dict.fromkeys(names, 0.0)
        self._at = {d.name: _position(d, seed, shuffle) for d in datasets}
        self._weights: dict[str, float] = {}
        self.weights = dict(weights)

    @property
    def weights(self) -> dict[str, float]:
        """Shares of the tokens by source, summing to 1. Setting them holds from the next row on."""
        return dict(self._weights)

    @weights.setter
    def weights(self, weights: Mapping[str, float]) -> None:
        for name, w in weights.items():
            if name not in self.datasets:
                raise DataError(
                    f"no source is called '{name}'", where="weights", remedy=did_you_mean(name, self.datasets)
                )
            if not 0 <= w < float("inf"):
                raise DataError(
                    f"the weight of '{name}' is {w}", where="weights", remedy="write a finite number of at least 0"
                )
        total = sum(weights.values())
        if not total > 0:
            raise DataError("all weights are 0", where="weights", remedy="give at least one source a weight above 0")
        self._weights = {n: weights.get(n, 0.0) / total for n in self.datasets}

    @property
    def epochs(self) -> dict[str, float]:
        """How often each source has been gone through, fractions included."""
        return {n: at.passes for n, at in self._at.items()}

    @property
    def read(self) -> int:
        """How many rows were given, replayed ones not counted."""
        return sum(at.given for n, at in self._at.items() if n not in self.replayed)

    @property
    def exhausted(self) -> bool:
        """Whether all `epochs` were given."""
        return self.last is not None and self.read >= self.last

    def streamed(self) -> dict[str, dict[str, float]]:
        """What was read of each streamed source so far: counts as those of `Dataset`, and `passes`."""
        return {n: {**at.seen, "passes": at.passes} for n, at in self._at.items() if at.seen}

    def next_batch(self) -> list[tuple[Row, int]]:
        """The next rows, each with the epoch of its source that it belongs to."""
        batch: list[tuple[Row, int]] = []
        held: set[tuple[str, Hashable]] = set()
        tokens = 0
        while True:
            name = self._next_source()
            at, row = self._at[name].next()
            again = (name, at) in held and name not in self.replayed
            if batch and (again or tokens + row.size > self.batch_tokens or self.exhausted):
                return batch
            held.add((name, at))
            batch.append((row, self._at[name].epoch))
            tokens += row.size
            self._advance(name, row.size)
            if tokens >= self.batch_tokens:
                return batch

    def state(self) -> dict[str, Any]:
        """The place as JSON values."""
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "weights": dict(self._weights),
            "sources": {
                n: {"hash": d.hash, **self._at[n].state(), "given": self.given[n], "lag": self._lag[n]}
                for n, d in self.datasets.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place. CheckpointError when it belongs to other data or another order."""
        sources = state["sources"]
        if set(sources) != set(self.datasets):
            raise CheckpointError(
                f"the checkpoint's sources are {sorted(sources)}, the recipe's {sorted(self.datasets)}",
                where="data.train",
                remedy="resume with the data that the run began with",
            )
        for name, d in self.datasets.items():
            if sources[name]["hash"] != d.hash:
                raise CheckpointError(
                    "the rows are not those that the run began with",
                    where=name,
                    remedy="put the old file back, or begin a new run",
                )
        if (state["seed"], state["shuffle"]) != (self.seed, self.shuffle):
            raise CheckpointError(
                "the checkpoint's order was drawn with another seed or shuffle",
                where="train.seed",
                remedy="resume with the recipe that the run began with",
            )
        self._weights = {n: float(state["weights"][n]) for n in self.datasets}
        for name, at in sources.items():
            self._at[name].restore(at)
            self.given[name], self._lag[name] = at["given"], at["lag"]

    def _next_source(self) -> str:
        return max((n for n, w in self._weights.items() if w > 0), key=lambda n: (self._lag[n], self._weights[n], n))

    def _advance(self, name: str, size: int) -> None:
        for n, w in self._weights.items():
            self._lag[n] += w * size
        self._lag[name] -= size
        self.given[name] += size
        self._at[name].advance()


def _position(dataset: Source, seed: int, shuffle: bool) -> Position:
    """The beginning of a data set."""
    stream = getattr(dataset, "stream", None)
    begun: Position = (
        Stored(dataset.rows, dataset.name, seed, shuffle, ordered=getattr(dataset, "ordered", False))
        if stream is None
        else stream.position(seed, shuffle)
    )
    return begun
