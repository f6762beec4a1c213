"""Sources as encoded rows: read and tokenised once, into a cache keyed by content, tokenizer, options and code."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunewright.contract.batch import Row
from tunewright.contract.record_change import RecordChange
from tunewright.contract.records import Problem, refuse
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data import sets, store
from tunewright.data.encode import encode_all
from tunewright.data.facts import Facts
from tunewright.data.labels import labels_of as labels_of  # had from here as well
from tunewright.data.order import Cursor, natural_shares, sizes, with_replay
from tunewright.data.places import as_written
from tunewright.data.read import Place, SourceLike, locate, read_lazily
from tunewright.data.streaming import HEAD, WINDOW, Stream
from tunewright.data.where import wanted
from tunewright.errors import DataError
from tunewright.files.cache import passing_folder
from tunewright.files.stamp import sample, stamp
from tunewright.machine import going, installed

log = logging.getLogger(__name__)

VERSION = 3


@dataclass
class Dataset:
    """Encoded rows. `hash` names the content; `counts` says what became of the rows that were read.

    Counts: `read`, `problems`, `too_long` (rows over max_length), `pieces` (rows made by splitting), `left_out` (rows
    over max_length of which nothing is kept), `zero_trained` (rows left out because nothing in them would be trained),
    `rows`, `tokens`, `trained_tokens`, `picture_tokens`. `weight` is the source's in the recipe; `parts` are the
    sources of a data set made of several. `remarks` are sentences about what of
    its files is not read and could be missed. `stream`: how the source is read while it is learnt from; then `rows` and
    `counts` are those of its first records alone, and `hash` is of what tells that its files are the same.
    `ordered`: the first pass takes the rows as they stand, whatever is shuffled.
    """

    name: str
    rows: Sequence[Row]
    hash: str
    counts: dict[str, int]
    weight: float | None = None
    parts: tuple[Dataset, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    facts: Facts | None = None
    remarks: tuple[str, ...] = ()
    stream: Stream | None = None
    ordered: bool = False

    @property
    def streamed(self) -> tuple[Dataset, ...]:
        """Those of its sources that are streamed."""
        return tuple(d for d in self.sources if d.stream is not None)

    @property
    def sources(self) -> tuple[Dataset, ...]:
        """The data sets of single sources that this one is made of."""
        return self.parts or (self,)

    def as_stored(self) -> Dataset:
        """The data set with the rows that are there: of streamed sources the first ones."""
        return replace(self, parts=tuple(p.as_stored() for p in self.parts), stream=None) if self.streamed else self

    def shares(self) -> dict[str, float]:
        """Each source's share of the tokens: by the recipe's weights; with none given, each row once per epoch."""
        return shares_of(self.sources)


def shares_of(parts: Sequence[Dataset]) -> dict[str, float]:
    """Each source's share of the tokens. Nobody knows how long a streamed source is: beside one, weights are shares."""
    if not weighed(parts) and not (len(parts) > 1 and any(p.stream for p in parts)):
        return natural_shares({p.name: p.counts["tokens"] for p in parts})
    weights = {p.name: 1.0 if p.weight is None else p.weight for p in parts}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def weighed(parts: Sequence[Dataset]) -> bool:
    """Whether the recipe gives a source a weight: equal ones too are shares of the tokens."""
    return any(p.weight is not None for p in parts)


class _Joined(Sequence[Row]):
    """Several row sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([np.asarray(sizes(p), dtype=np.int64) for p in self.parts])

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        for part in self.parts:
            if i < len(part):
                return part[i]
            i -= len(part)
        raise AssertionError


def build(
    sources: Sequence[SourceLike],
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    cache_dir: Path | str,
    *,
    base: Path | str = ".",
    problems: Literal["fail", "skip"] = "fail",
    change: RecordChange | None = None,
    window: int = WINDOW,
) -> Dataset:
    """Encode sources, or take them from the cache. Paths start from `base`; `change` is applied to each record first.
    `window`: records of a streamed source that are shuffled together.

    Raises DataError when rows cannot be used (unless `problems` is "skip"), when none is left, or when none of them
    has a trained token.
    """
    parts = tuple(stored(s, task, tokenizer, options, Path(cache_dir), base=base, change=change) for s in sources)
    parts = tuple(
        p if p.stream is None else replace(p, stream=replace(p.stream, window=window, skip_bad=problems == "skip"))
        for p in parts
    )
    for part in parts:
        if part.problems and problems == "fail":
            raise refuse(part.problems, part.name, part.counts["read"])
        refuse_nothing(part.name, part.counts, options)
    return joined(parts)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Data sets one after the other, as one of several sources."""
    if len(parts) == 1:
        return parts[0]
    parts = tuple(source for p in parts for source in p.sources)
    counts = {k: sum(p.counts[k] for p in parts) for k in parts[0].counts}
    digest = hashlib.sha256("".join(p.hash for p in parts).encode()).hexdigest()
    return Dataset(
        " + ".join(p.name for p in parts),
        _Joined([p.rows for p in parts]),
        digest,
        counts,
        parts=parts,
        problems=[q for p in parts for q in p.problems],
    )


def cursor(
    dataset: Dataset,
    *,
    seed: int,
    batch_tokens: int,
    shuffle: bool = True,
    replay: Mapping[str, tuple[Dataset, float]] | None = None,
    epochs: float | None = None,
) -> Cursor:
    """A cursor over a data set's sources, up to `epochs` passes; `replay` adds others with their shares of all
    tokens.
    """
    shares, parts = dataset.shares(), list(dataset.sources)
    if replay:
        shares = with_replay(shares, {d.name: share for d, share in replay.values()})
        parts += [d for d, _ in replay.values()]
    replayed = [d.name for d, _ in (replay or {}).values()]
    return Cursor(
        parts, shares, seed=seed, batch_tokens=batch_tokens, shuffle=shuffle, epochs=epochs, replayed=replayed
    )


def refuse_nothing(name: str, counts: Mapping[str, int], options: EncodeOptions) -> None:
    """DataError where a source leaves no row to learn from, with the reason that took most of them."""
    if counts["rows"]:
        return
    if counts["zero_trained"] and counts["zero_trained"] >= counts["too_long"]:
        raise DataError(
            "no row has a token that would be trained",
            where=name,
            remedy="check that the rows have answers and that the assistant's weights are above 0",
        )
    if counts["too_long"]:
        raise DataError(
            f"all rows are longer than max_length ({options.max_length})",
            where=name,
            remedy="shorten them, or set data.truncation: split; data.max_length helps as far as the model reads",
        )
    raise DataError("no row can be used", where=name, remedy="`tunewright check RECIPE` lists every row's reason")


def stored(
    source: SourceLike,
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    cache_dir: Path,
    *,
    base: Path | str = ".",
    change: RecordChange | None = None,
) -> Dataset:
    """A source's encoded rows, from the cache or put there, whatever became of them: bad rows are in `problems`. Of a
    streamed source those of its first records.
    """
    place = locate(source, base)
    changed = "" if change is None else change.key
    key = _key(source, place, base, task, tokenizer, options, changed)
    folder = cache_dir / "rows" / key
    stream = Stream(place.name, source, place, task, tokenizer, options, change) if is_streamed(source) else None
    if not store.is_whole(folder):

        def encode_into(folder: Path) -> None:
            with store.Writer(folder) as writer:
                read = read_lazily(source, base)
                read.records = read.records if stream is None else islice(read.records, HEAD)
                encoded = encode_all(read, task, tokenizer, options, change, writer)
                writer.finish(
                    {
                        "source": place.name,
                        "counts": encoded.counts,
                        "problems": [vars(p) for p in encoded.problems],
                        "places": encoded.places,
                        "shapes": encoded.shapes,
                        "remarks": read.remarks,
                    }
                )

        try:
            encode_into(folder)
        except OSError as e:  # a cache that cannot be written costs time, never the run
            log.warning("the encoded rows of %s were not kept: %s", place.name, e)
            folder = passing_folder("rows") / folder.name
            encode_into(folder)
    about = store.manifest(folder)
    return Dataset(
        place.name,
        store.StoredRows(folder, place.name),
        about["hash"] if stream is None else key,
        about["counts"],
        getattr(source, "weight", None),
        problems=[as_written(Problem(**p), source) for p in about["problems"]],
        facts=Facts(folder / store.FACTS, tuple(about["places"]), about["shapes"]),
        remarks=tuple(about["remarks"]),
        stream=stream,
    )


def is_streamed(source: SourceLike) -> bool:
    """Whether a source is read while it is learnt from."""
    return bool(getattr(source, "streaming", False))


def _key(
    source: SourceLike,
    place: Place,
    base: Path | str,
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    change: str,
) -> str:
    """A hash of everything that decides a source's encoded rows. Of a streamed source files are not read for it."""
    streamed = is_streamed(source)
    h = hashlib.sha256()
    asked = [getattr(source, key, None) for key in ("config", "revision", "sheet")]
    asked += [sorted((c, sorted(texts)) for c, texts in wanted(source).items())] if wanted(source) else []
    share = getattr(source, "share", None)
    asked += [["share", *share]] if share is not None else []
    permute = getattr(source, "permute", None)
    asked += [["permute", permute]] if permute is not None else []
    spec = [VERSION, place.name, source.split, source.format, sorted(source.columns.items()), source.limit, *asked]
    code = _code_hash() + installed.code_hash((installed.TASKS, installed.SHAPES))
    for part in (json.dumps(spec), task.called, options.key(), tokenizer_hash(tokenizer), code):
        h.update(part.encode() + b"\0")
    h.update(change.encode())
    h.update((place.made.key if place.made is not None else "").encode())
    h.update((place.media.key() if place.media is not None else "").encode())
    if streamed:
        told: list[Any] = [[f.url, f.key] for f in place.remote]
        told += [sets.hub_revision(place.hub, getattr(source, "revision", None))] if place.hub else []
        h.update(json.dumps(["streamed", *told, *map(sample, (*place.files, *place.beside))]).encode())
        return h.hexdigest()[:40]
    for path in going.counted((*place.files, *place.beside), f"looking at {place.name}", "files"):
        with path.open("rb") as f:
            h.update(hashlib.file_digest(f, "sha256").digest())
    listed = place.media is not None and not place.media.metadata  # whose key has counted every file
    for record in read_lazily(source, base).records if place.hub or (task.reads_files and not listed) else ():
        h.update(repr([(k, _content(v, record.base)) for k, v in sorted(record.items())]).encode())
    return h.hexdigest()[:40]


def _content(value: Any, base: str) -> Any:
    """What a column's value says of content: bytes by hash, a file by its stamp."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        return {k: _content(v, base) for k, v in value.items()}
    if isinstance(value, str) and (there := _file_of(value, base)) is not None:
        return value, stamp(there)
    return value if not hasattr(value, "tobytes") else hashlib.sha256(value.tobytes()).hexdigest()


def _file_of(text: str, base: str) -> Path | None:
    """The file that a text names; None where it names none, as a caption that is longer than a name may be."""
    if len(text) >= 1024 or "\n" in text or "\0" in text:
        return None
    try:
        return path if (path := Path(base) / text).is_file() else None
    except OSError:
        return None


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of everything about a tokenizer that decides how rows are encoded; "" for none, and for what reads
    images.
    """
    if not hasattr(tokenizer, "get_vocab"):
        return ""
    inner = (
        tokenizer.backend_tokenizer.to_str()
        if getattr(tokenizer, "is_fast", False)
        else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    )
    around = [
        type(tokenizer).__name__,
        str(tokenizer.chat_template),
        {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        tokenizer.model_max_length,
    ]
    return hashlib.sha256((inner + json.dumps(around, sort_keys=True)).encode()).hexdigest()


@lru_cache
def _code_hash() -> str:
    """A hash of the code that encodes, so that rows of an older version are not taken for today's."""
    package = Path(__file__).parents[1]
    h = hashlib.sha256()
    for path in sorted(p for room in ("data", "tasks", "contract") for p in (package / room).glob("*.py")):
        h.update(path.read_bytes())
    return h.hexdigest()
